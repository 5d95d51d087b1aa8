"""Makes a reference model from the best checkpoint of a run.

    python -m rnnmnist.main --config=default
    python tools/make_reference.py --workdir=checkpoints/default

    python -m rnnmnist.main --config=every_row
    python tools/make_reference.py --workdir=checkpoints/every_row --name=NAME

NAME is reference_every_row. The shipped models were trained with two more flags,
`--config.train.learning_rate=4e-3 --config.train.weight_decay=1e-4`, and the first of
them with `--config.model.recurrence=flax` too. A reference holds parameters,
configuration and validation metrics, but neither the state of the optimizer nor a path
of the machine that trained it.

A reference can itself be the workdir: that saves it again in the current format, with
the current names of settings and parameters.

    python tools/make_reference.py --workdir=checkpoints/reference
"""

import argparse
import shutil
from pathlib import Path

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.selection import find_step

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
RENAMED = {"readout": "head"}  # parameters under their earlier names


def main() -> None:
    """Saves the best step as a reference, in place of the one that there was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--name", default="reference")
    options = parser.parse_args()
    workdir, target = options.workdir.absolute(), CHECKPOINTS / options.name
    step = find_step(workdir, "best")
    config, metrics = (
        store.read_config(workdir, step),
        store.read_metrics(workdir, step),
    )
    params = {
        RENAMED.get(name, name): leaves
        for name, leaves in store.read_params(workdir, step).items()
    }
    shutil.rmtree(target, ignore_errors=True)
    store.save_params(target, step, params, config, metrics)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: step {step}, {size} bytes")


if __name__ == "__main__":
    main()
