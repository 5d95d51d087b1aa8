"""Reports this machine's hardware and software, and checks that a run would work.

    rnnmnist doctor --require=gpu

Pass the flags that you would pass to `rnnmnist train`. The doctor loads the data, and
downloads and prepares an image data set if necessary. Then it trains for two steps, or
fits the random filters, in memory. The exit code is 1 if the run would fail, or if JAX
does not use the required platform.
"""

import argparse
import contextlib
import platform
import time

from rnnmnist.commands import command_line
from rnnmnist.errors import RunError, summarize_error, to_expected_error

STEPS = 2


def main(argv: list[str]) -> None:
    """Checks whether a run would work on this machine."""
    parser = command_line.make_training_parser("doctor", __doc__)
    parser.add_argument(
        "--require",
        choices=["tpu", "gpu"],
        help="exit with code 1 unless JAX uses this platform",
    )
    args = command_line.parse_training(parser, argv)
    try:
        check_run(args)
    except BrokenPipeError:
        raise
    except Exception as error:  # incompatible libraries and drivers raise many types
        reason = command_line.format_error(
            to_expected_error(error) or summarize_error(error)
        )
        raise RunError(f"a run of {args.name} would not work here: {reason}") from error


def check_run(args: argparse.Namespace) -> None:
    """Describes the machine and the run, and trains briefly in memory."""
    import jax

    from rnnmnist.data.datasets import open_data_source
    from rnnmnist.runs.records import Record
    from rnnmnist.runtime import machine
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.devices import make_single_device_mesh
    from rnnmnist.runtime.distributed import initialize
    from rnnmnist.runtime.mesh import mesh_platform
    from rnnmnist.runtime.signals import StopFlag
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
        platform_name = mesh_platform(make_single_device_mesh())
        if platform_name != args.require:
            raise RunError(
                f"require: JAX uses {jax.device_count()} x {platform_name}, not a "
                f"{args.require}; use a machine that has one (in Colab: Runtime, "
                "Change runtime type), install jax[tpu] or jax[cuda12], and unset "
                "JAX_PLATFORMS"
            )
    with open_run(args.request, args.workdir, open_data_source) as run:
        config = run.config
        Progress(config.train, run.dataset.task, verbose=True).write(describe_run(run))
        if not config.model.is_closed_form:
            config = config.replace({"train.num_steps": STEPS})
        started = time.monotonic()
        train_and_evaluate(
            Run(Record(), config, run.dataset, run.mesh),
            contextlib.nullcontext(StopFlag()),
            verbose=False,
        )
    seconds = time.monotonic() - started
    print(f"a run of {args.name} would work here: its trial took {seconds:.1f} s")
