"""Trains a network, or resumes a run from its newest checkpoint.

    rnnmnist train --config=default --config.seed=1

Any setting can be given as --config.KEY=VALUE.
"""

import argparse
import shlex

from rnnmnist.commands import command_line
from rnnmnist.config.resolving import resolve


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.training_parser("train", __doc__)
    return command_line.parse_training(parser, argv)


def main(argv: list[str]) -> None:
    """Trains, or resumes, the run of the command line."""
    args = parse(argv)
    from rnnmnist.data import datasets
    from rnnmnist.runs.workdir import PhaseTimer
    from rnnmnist.runtime import distributed
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.signals import stop_on_signal
    from rnnmnist.training.loop import train_and_evaluate
    from rnnmnist.training.resume import open_workdir

    enable_compilation_cache()
    with (
        distributed.initialize(*args.processes),
        open_workdir(args.given, args.workdir) as start,
    ):
        timer = PhaseTimer(shlex.join(["python", "-m", "rnnmnist.main", *argv]))
        with timer.phase("data"), distributed.process_0_first():
            chosen, reason, dataset = datasets.load_for_training(
                args.given, start.config
            )
        train_and_evaluate(
            resolve(chosen, dataset.task),
            dataset,
            start,
            stop_on_signal,
            timer=timer,
            reason=reason,
        )
