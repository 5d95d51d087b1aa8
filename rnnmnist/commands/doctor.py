"""Reports the hardware and software of this machine, and whether a run would work.

    rnnmnist doctor --require=gpu

The flags of `rnnmnist train` describe the run. The doctor loads the data, downloads and
prepares image data sets if necessary, and trains for two steps, or fits the random
filters, in a temporary folder. The exit code is 1 if the run would not work, or would
not use the required devices.
"""

import argparse
import contextlib
import platform
import tempfile
import time
from pathlib import Path

from rnnmnist.commands import command_line
from rnnmnist.errors import RunError, as_failure, summarize_error

STEPS = 2


def main(argv: list[str]) -> None:
    """Checks whether the run on the command line would work on this machine."""
    parser = command_line.make_training_parser("doctor", __doc__)
    parser.add_argument(
        "--require",
        choices=["tpu", "gpu"],
        help="exit with code 1 unless jax uses this platform",
    )
    args = command_line.parse_training(parser, argv)
    try:
        check_run(args)
    except Exception as error:  # incompatible libraries and drivers raise many types
        failure = as_failure(error) or summarize_error(error)
        reason = command_line.format_error(failure)
        raise RunError(f"a run of {args.name} would not work here: {reason}") from error


def check_run(args: argparse.Namespace) -> None:
    """Describes the machine and the run, and runs a trial in a temporary folder."""
    import jax

    from rnnmnist.data.datasets import open_source
    from rnnmnist.runs.records import Record
    from rnnmnist.runtime import machine
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.devices import make_device_mesh
    from rnnmnist.runtime.distributed import broadcast, initialize
    from rnnmnist.runtime.mesh import mesh_platform
    from rnnmnist.runtime.signals import StopFlag, stop_on_signal
    from rnnmnist.training.console import Progress, describe_run
    from rnnmnist.training.resume import Run, open_run
    from rnnmnist.training.run import train_and_evaluate

    versions = machine.installed_versions().items()
    print(", ".join(f"{name} {version}" for name, version in versions))
    memory = f"{machine.main_memory().total / 2**30:.1f} GiB of memory"
    print(f"{platform.system()}, {machine.describe_processor()}, {memory}", flush=True)
    enable_compilation_cache()
    initialize(*args.processes)
    if args.require is not None:  # before data are downloaded
        found = mesh_platform(make_device_mesh())
        if found != args.require:
            raise RunError(
                f"require: jax uses {jax.device_count()} x {found}, not a "
                f"{args.require}; install jax[tpu] or jax[cuda12] on a machine with "
                "one (in Colab: Runtime, Change runtime type), and unset JAX_PLATFORMS"
            )
    with open_run(args.request, args.workdir, open_source) as run:
        config = run.config
        Progress(config.train, run.dataset.task, verbose=True).write(describe_run(run))
        if not config.model.is_closed_form:
            config = config.replace({"train.num_steps": STEPS})
        started = time.monotonic()
        # A signal takes effect after the temporary folder is removed.
        with stop_on_signal(), tempfile.TemporaryDirectory(dir=args.workdir) as local:
            folder = Path(broadcast(lambda: local))  # shared by all processes
            train_and_evaluate(
                Run(Record(folder), config, run.dataset, run.mesh),
                contextlib.nullcontext(StopFlag()),
                verbose=False,
            )
    seconds = time.monotonic() - started
    print(f"a run of {args.name} would work here: its trial took {seconds:.1f} s")
