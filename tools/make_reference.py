"""Saves the best checkpoint of a run as a reference model.

    python -m rnnmnist.main --config=default
    python tools/make_reference.py --workdir=checkpoints/default

    python -m rnnmnist.main --config=every_step
    python tools/make_reference.py --workdir=checkpoints/every_step --name=NAME

NAME is reference_every_step. The shipped models were trained with another learning rate
and weight decay: the recipe is in the checkpoint's configuration. Earlier versions of
the code trained them, so a repetition gives other bits. A reference model contains
parameters, configuration and validation metrics, but no optimizer state and no path.

A reference model can be the workdir itself; this saves it again in the current format.
"""

import argparse
import shutil
from pathlib import Path

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.selection import find_step

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def main() -> None:
    """Parses the command line and replaces a reference model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--name", default="reference")
    args = parser.parse_args()
    workdir, target = args.workdir.absolute(), CHECKPOINTS / args.name
    step = find_step(workdir, "best")
    config = store.read_config(workdir, step)
    metrics = store.read_metrics(workdir, step)
    task = store.read_task(workdir, step)
    params = store.read_params(workdir, step)
    shutil.rmtree(target, ignore_errors=True)
    store.save_params(target, step, params, config, task, metrics)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: step {step}, {size} bytes")


if __name__ == "__main__":
    main()
