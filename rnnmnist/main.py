"""Trains a network, or resumes a run from its newest checkpoint.

    rnnmnist train --config=default --config.seed=1

Any setting can be given as --config.KEY=VALUE.
"""

import argparse
import shlex

from rnnmnist import cli
from rnnmnist.config.resolving import resolve


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    return cli.parse_training(cli.training_parser("train", __doc__), argv)


def main(argv: list[str]) -> None:
    """Trains, or resumes, the run of the command line."""
    args = parse(argv)
    from rnnmnist.data import datasets
    from rnnmnist.runs.workdir import PhaseTimer
    from rnnmnist.runtime import distributed
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.signals import stop_on_signal
    from rnnmnist.training.loop import train_and_evaluate
    from rnnmnist.training.resume import (
        check_workdir,
        decide_network,
        take_class_weights,
    )

    enable_compilation_cache()
    with distributed.initialize(*args.processes):
        timer = PhaseTimer(shlex.join(["python", "-m", "rnnmnist.main", *argv]))
        given = decide_network(take_class_weights(args), args.workdir)
        distributed.broadcast(lambda: check_workdir(given, args.workdir))
        with timer.phase("data"), distributed.process_0_first():
            given, dataset = datasets.load_for_training(given)
        config = resolve(given, dataset.task)
        train_and_evaluate(config, dataset, args.workdir, stop_on_signal, timer=timer)


if __name__ == "__main__":
    cli.run(main)
