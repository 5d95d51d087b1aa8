"""Reports what this machine has, and whether a run would work on it.

    rnnmnist doctor --require=gpu

The flags of `rnnmnist train` describe the run. The exit code is 1 if the run would not
work, or would use other devices than required.
"""

import platform

from rnnmnist.commands import command_line
from rnnmnist.errors import RunError, as_failure, summarize_error
from rnnmnist.runtime import machine


def main(argv: list[str]) -> None:
    """Checks this machine for the run of the command line."""
    parser = command_line.training_parser("doctor", __doc__)
    parser.add_argument(
        "--require", choices=["tpu", "gpu"], help="exit with 1 unless jax uses one"
    )
    args = command_line.parse_training(parser, argv)
    try:
        show("versions", machine.join_versions(machine.installed_versions()))
        memory = f"{machine.main_memory().total / 2**30:.1f} GiB of memory"
        processor = machine.describe_processor()
        show("machine", f"{platform.system()}, {processor}, {memory}")
        from rnnmnist.runtime.compilation import enable_compilation_cache
        from rnnmnist.runtime.distributed import initialize
        from rnnmnist.training.preflight import check_run

        enable_compilation_cache()
        with initialize(*args.processes):
            for label, result in check_run(args.given, args.workdir, args.require):
                show(label, result)
            show("verdict", f"a run of {args.name} would work here")
    except Exception as error:  # incompatible libraries and drivers raise many kinds
        failure = as_failure(error) or summarize_error(error)
        reason = command_line.format_error(failure)
        raise RunError(f"a run of {args.name} would not work here: {reason}") from error


def show(label: str, text: str) -> None:
    """Prints a line of the report."""
    print(f"{label:<10}{text}", flush=True)
