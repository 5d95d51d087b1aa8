"""Reports what this machine has, and whether a run would work on it.

    rnnmnist doctor --require=gpu

The flags of `rnnmnist train` describe the run. Two of its steps are trained in a
temporary folder, on the embedded images if the data set is not prepared, whose smaller
number says nothing about memory; random filters are fitted to a few sequences. The exit
code is 1 if the run would not work, or would use other devices than required.
"""

import argparse
import contextlib
import platform
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rnnmnist.commands import command_line
from rnnmnist.errors import (
    DataWarning,
    RunError,
    as_failure,
    summarize_error,
)

if TYPE_CHECKING:
    from rnnmnist.config.recipes import Request
    from rnnmnist.config.schema import Config
    from rnnmnist.data.examples import Dataset

STEPS = 2
FEW = 24  # examples of each split, at most, if filters are fitted


def main(argv: list[str]) -> None:
    """Checks this machine for the run of the command line."""
    parser = command_line.training_parser("doctor", __doc__)
    parser.add_argument(
        "--require", choices=["tpu", "gpu"], help="exit with 1 unless jax uses one"
    )
    args = command_line.parse_training(parser, argv)
    try:
        check_run(args)
        show("verdict", f"a run of {args.name} would work here")
    except Exception as error:  # incompatible libraries and drivers raise many kinds
        failure = as_failure(error) or summarize_error(error)
        reason = command_line.format_error(failure)
        raise RunError(f"a run of {args.name} would not work here: {reason}") from error


def show(label: str, text: str) -> None:
    """Prints a line of the report."""
    print(f"{label:<10}{text}", flush=True)


def check_run(args: argparse.Namespace) -> None:
    """Shows what a run would use, and trains its first steps in a temporary folder."""
    import jax
    import numpy as np

    from rnnmnist.config.resolving import resolve
    from rnnmnist.runtime import machine
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.distributed import broadcast, initialize
    from rnnmnist.runtime.mesh import platform_of
    from rnnmnist.runtime.signals import StopFlag, stop_on_signal
    from rnnmnist.training.resume import Start, open_workdir
    from rnnmnist.training.run import train_and_evaluate

    versions = machine.installed_versions().items()
    show("versions", ", ".join(f"{name} {version}" for name, version in versions))
    memory = f"{machine.main_memory().total / 2**30:.1f} GiB of memory"
    show("machine", f"{platform.system()}, {machine.describe_processor()}, {memory}")
    enable_compilation_cache()
    initialize(*args.processes)
    with open_workdir(args.request, args.workdir) as start:
        state = start.completion or f"a run would go on from step {start.step}"
        show("workdir", f"{args.workdir}, {state}")
        chosen, dataset = load(args.request, start.config)
        config = resolve(chosen, dataset.task)
        mesh = start.check(config, dataset)
        devices = f"{jax.device_count()} x {platform_of(mesh)}"
        show("devices", f"{mesh.size} of {devices}")
        if args.require not in (None, platform_of(mesh)):
            raise RunError(
                f"require: jax uses {devices}, not a {args.require}; install jax[tpu] "
                "or jax[cuda12] on a machine with one (in Colab: Runtime, Change "
                "runtime type), and unset JAX_PLATFORMS"
            )
        if config.model.fitting == "closed_form":
            few = {}
            for split, examples in dataset.splits.items():
                count = min(FEW, len(examples))
                positions = np.linspace(0, len(examples) - 1, count).astype(int)
                few[split] = examples.select(positions)
            dataset = dataset._replace(splits=few)
            warnings.simplefilter("ignore", DataWarning)  # of these few examples
        else:
            config = config.replace({"train.num_steps": STEPS})
        started = time.monotonic()
        # A signal takes effect once the folder is removed.
        with stop_on_signal(), tempfile.TemporaryDirectory(dir=args.workdir) as own:
            folder = Path(broadcast(lambda: own))  # which processes share
            train_and_evaluate(
                config,
                dataset,
                Start(folder),
                mesh,
                contextlib.nullcontext(StopFlag()),
                verbose=False,
            )
    show("training", f"{time.monotonic() - started:.1f} s")


def load(request: "Request", saved: "Config | None") -> "tuple[Config, Dataset]":
    """Loads the data of a run; embedded images in place of data to be prepared."""
    from rnnmnist.config.recipes import choose_config
    from rnnmnist.config.schema import DataConfig
    from rnnmnist.data import datasets
    from rnnmnist.data.image_sets import image_task

    chosen, _ = choose_config(request, saved)
    if chosen.data.name not in ("files", "mnist5k"):
        from rnnmnist.data.images import make_builder, missing_urls  # imports TFDS

        builder = make_builder(chosen.data)
        if not builder.is_prepared():  # without these files, their host must respond
            missing = missing_urls(builder, chosen.data.manual_dir)
            show(
                "data",
                f"{chosen.data.name}: a run downloads {len(missing)} files and "
                f"prepares the data set in {builder.data_dir}",
            )
            embedded = datasets.load(DataConfig("mnist5k"))
            return chosen, embedded._replace(task=image_task(chosen.data))
    chosen, _, dataset = datasets.load_for_training(request, saved)
    show("data", f"{dataset.task.name}: {dataset.task.sizes} {dataset.task.noun}")
    return chosen, dataset
