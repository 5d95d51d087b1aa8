"""Makes a reference model from the best checkpoint of a run.

    python -m rnnmnist.main --config=default
    python tools/make_reference.py --workdir=checkpoints/default

    python -m rnnmnist.main --config=every_row
    python tools/make_reference.py --workdir=checkpoints/every_row --name=NAME

NAME is reference_every_row. Those that are here were trained with two more flags,
`--config.train.learning_rate=4e-3 --config.train.weight_decay=1e-4`, the first of them
with `--config.model.recurrence=flax`, too. A reference holds parameters, configuration
and validation metrics, no optimizer's memory, and no place of the machine that made it.
"""

import argparse
import shutil
from pathlib import Path

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.selection import find_step
from rnnmnist.models.classifier import abstract_params, make_model
from rnnmnist.runtime.mesh import here

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def main() -> None:
    """Exports the best step, in the place of the reference that there was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--name", default="reference")
    options = parser.parse_args()
    workdir, target = options.workdir.absolute(), CHECKPOINTS / options.name
    step = find_step(workdir, "best")
    config = store.read_config(workdir, step)
    like = abstract_params(make_model(config.model), here(), config.num_seeds)
    shutil.rmtree(target, ignore_errors=True)
    store.export_params(workdir, step, like, target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: step {step}, {size} bytes")


if __name__ == "__main__":
    main()
