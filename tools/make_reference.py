"""Trains the reference models, and saves them in `checkpoints/`.

    python tools/make_reference.py --data=FOLDER

The reference models are seed 0 of the configuration `best`, and of `best` with a loss
after every row. The seed was fixed before the runs, independently of the test results
in `results/NAME.json`. A reference model contains parameters, configuration, task and
validation metrics, but no optimizer state and no paths. Finished runs in
`checkpoints/results` are not repeated. FOLDER is described in `tools/results.py`.
"""

import argparse
import shutil
from pathlib import Path

import msgspec
from result_files import REPOSITORY

import results
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import write_checksums
from rnnmnist.runs.records import Record


def main() -> None:
    """Parses the command line, trains the models, and replaces the saved models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=lambda text: Path(text).absolute())
    args = parser.parse_args()
    results.measure(results.REFERENCES, args.data)
    for row in results.REFERENCES:
        save(
            results.RUNS / f"{row.name}-0",
            REPOSITORY / "checkpoints" / row.name,
        )


def save(workdir: Path, target: Path) -> None:
    """Replaces a reference model with the best checkpoint of a run."""
    header = Record(workdir).select("best")
    step = header.step
    params = checkpoints.read_arrays(workdir, step, "params")
    config = header.config.replace(dict.fromkeys(DATA_PATHS))  # paths on this machine
    shutil.rmtree(target, ignore_errors=True)
    header = msgspec.structs.replace(header, config=config)
    checkpoints.save(target, header, {"params": params})
    for path in target.rglob("commit_success.txt"):
        path.unlink()  # contains only the path where it was written
    write_checksums(target / str(step))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: step {step}, {size:,} bytes")


if __name__ == "__main__":
    main()
