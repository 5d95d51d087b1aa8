"""Says what this machine has, and whether a run would work here.

    python -m rnnmnist.doctor --require=gpu

Takes the flags of `rnnmnist.main` too, for the run that is meant. Exits with 1 if
it would not work, or would use other devices than those that are required.
"""

import time
from collections.abc import Callable
from typing import Any

from rnnmnist import errors
from rnnmnist.config.command_line import TrainingArgs, parse_training, training_parser
from rnnmnist.runtime import versions


class Report:
    """Lines that appear as they are found, and the problems among them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def line(self, label: str, text: str) -> None:
        """Shows a finding."""
        print(f"{label:<21}{text}", flush=True)

    def find(self, label: str, finder: Callable[..., str], *of: Any) -> bool:
        """Shows what a function finds, or the problem that it raises.

        Returns:
            Whether there was none.
        """
        try:
            self.line(label, finder(*of))
        except errors.RunError as error:
            self.line(label, f"NO: {error}")
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return False
        return True

    def refusal(self, name: str) -> errors.RunError:
        """One line with every problem of a configuration's run."""
        why = "; and ".join(self.problems)
        return errors.RunError(f"a run of {name} would not work here: {why}")


def parse(argv: list[str]) -> tuple[TrainingArgs, str | None]:
    """Parses the command line: the run that is meant, and the required platform."""
    parser = training_parser("doctor", __doc__)
    parser.add_argument(
        "--require", choices=["tpu", "gpu"], help="exit 1 if there is none to use"
    )
    training, args = parse_training(parser, argv)
    return training, args.require


def main(argv: list[str]) -> None:
    """Examines the machine for the run that the command line means.

    Raises:
        UserError: for a wrong flag, setting or value.
        RunError: when a run would not work here, with every reason.
    """
    started = time.monotonic()
    (training, required), report = parse(argv), Report()
    try:
        from rnnmnist.runtime.distributed import initialize
    except Exception as error:  # libraries that do not fit together raise many kinds
        list_versions(report)
        report.problems.append(errors.first_line(error))
        raise report.refusal(training.name) from error
    with initialize(training.processes):
        list_versions(report)
        examine(training, required, report)
        report.line("seconds", f"{time.monotonic() - started:.1f}")
        if report.problems:
            raise report.refusal(training.name)
        report.line("verdict", f"a run of {training.name} would work here")


def list_versions(report: Report) -> None:
    """Shows which versions are here, beside those that were tested."""
    for name, tested in versions.read_tested().items():
        report.find(name, versions.describe_installed, name, tested)


def examine(training: TrainingArgs, required: str | None, report: Report) -> None:
    """Looks at the machine, and at all that the run would need.

    Raises:
        RunError: when the devices are not those that are required.
    """
    from rnnmnist.runtime import hardware
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.distributed import count
    from rnnmnist.runtime.mesh import set_cpu_devices
    from rnnmnist.training import preflight

    config, train = training.config, training.config.train
    enable_compilation_cache()
    wanted = train.batch_size, train.num_devices, config.num_seeds
    set_cpu_devices(*wanted, count())
    report.line("machine", hardware.describe())
    usable = report.find("devices", hardware.describe_devices, *wanted)
    if required:
        hardware.require(required)
    report.find("data", preflight.describe_data, config.data)
    for text in preflight.describe_other_data(config.data):
        report.line("data", text)
    report.find("workdir", preflight.describe_workdir, config, training.workdir)
    if usable:
        report.find("step", preflight.describe_step, config)
        report.line("memory", hardware.describe_memory())
    report.line("programs", preflight.describe_programs())


if __name__ == "__main__":
    errors.run(main)
