"""Reports what this machine has, and whether a run would work on it.

    python -m rnnmnist.doctor --require=gpu

The flags of `rnnmnist.main` describe the run. The exit code is 1 if the run would not
work, or would use other devices than required.
"""

import platform
import time
from collections.abc import Callable
from typing import Any

from rnnmnist import cli, errors
from rnnmnist.cli import TrainingArgs, parse_training, training_parser
from rnnmnist.config.tasks import fit_to_task
from rnnmnist.runtime import machine


class Checklist:
    """Prints the result of each check at once, and collects the problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def show(self, label: str, text: str) -> None:
        """Prints a line."""
        print(f"{label:<11}{text}", flush=True)

    def check(self, label: str, function: Callable[..., str], *args: Any) -> bool:
        """Prints the text that a function returns, or the problem that it raises.

        Returns whether the function succeeded.
        """
        try:
            self.show(label, function(*args))
        except Exception as error:
            self.fail(label, error)
            return False
        return True

    def fail(self, label: str, error: Exception) -> None:
        """Prints and collects a problem; an internal fault is raised again."""
        failure = errors.as_run_error(error)
        if failure is None:
            raise error
        problem = cli.format_error(failure)
        self.show(label, f"NO: {problem}")
        if problem not in self.problems:
            self.problems.append(problem)

    def failure(self, name: str) -> errors.RunError:
        """Returns an error with every problem of the run of a configuration."""
        problems = "; and ".join(self.problems)
        return errors.RunError(f"a run of {name} would not work here: {problems}")


def parse(argv: list[str]) -> tuple[TrainingArgs, str | None]:
    """Parses the command line: the run to check and the required platform."""
    parser = training_parser("doctor", __doc__)
    parser.add_argument(
        "--require", choices=["tpu", "gpu"], help="exit with 1 unless jax uses one"
    )
    training, args = parse_training(parser, argv)
    return training, args.require


def main(argv: list[str]) -> None:
    """Checks the machine for the run of the command line."""
    started = time.monotonic()
    training, required = parse(argv)
    checklist = Checklist()
    try:
        from rnnmnist.runtime.distributed import initialize
    except Exception as error:  # incompatible libraries raise many kinds
        show_machine(checklist)
        checklist.problems.append(errors.first_line(error))
        raise checklist.failure(training.name) from error
    with initialize(training.processes):
        show_machine(checklist)
        check_run(training, required, checklist)
        checklist.show("seconds", f"{time.monotonic() - started:.1f}")
        if checklist.problems:
            raise checklist.failure(training.name)
        checklist.show("verdict", f"a run of {training.name} would work here")


def show_machine(checklist: Checklist) -> None:
    """Shows what is known without jax: versions, cores and memory."""
    gigabytes = machine.main_memory() / 2**30
    versions = machine.join_versions(machine.installed_versions())
    processor = f"{platform.system()}, {machine.describe_processor()}"
    checklist.show("versions", versions)
    checklist.show("machine", f"{processor}, {gigabytes:.1f} GiB of memory")


def check_run(
    training: TrainingArgs, required: str | None, checklist: Checklist
) -> None:
    """Checks the devices, data and workdir of a run, and trains a few steps."""
    from rnnmnist.config.platforms import execution_of
    from rnnmnist.data import datasets
    from rnnmnist.runtime import hardware
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.distributed import process_count
    from rnnmnist.runtime.mesh import devices, set_cpu_devices
    from rnnmnist.training import preflight

    config = training.config
    dataset = None
    if config.data.name == "files":
        try:
            dataset = datasets.load(config.data)
        except Exception as error:
            checklist.fail("data", error)  # on which the other checks depend
            return
    task = dataset.task if dataset else datasets.image_task(config.data)
    config = fit_to_task(config, task)
    enable_compilation_cache()
    mesh_args = config.train.batch_size, config.execution.num_devices, config.num_seeds
    set_cpu_devices(*mesh_args, process_count())
    has_devices = checklist.check("devices", hardware.describe_devices, *mesh_args)
    if has_devices:
        execution = execution_of(config, devices()[0].platform)
        checklist.show("execution", execution.describe())
    if required:
        hardware.require_platform(required)
    checklist.check("data", preflight.describe_data, config.data, dataset)
    folder = training.workdir
    checklist.check("workdir", preflight.describe_workdir, config, folder, task)
    if has_devices:
        checklist.check("step", preflight.describe_step, config, task, dataset)


if __name__ == "__main__":
    cli.run(main)
