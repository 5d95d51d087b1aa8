"""Trains a network, or resumes a run from its newest checkpoint.

    rnnmnist train --config=default --config.seed=1

Any setting can be given as --config.KEY=VALUE.
"""

import argparse

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
    from rnnmnist.runtime import distributed
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.signals import stop_on_signal
    from rnnmnist.training.resume import open_workdir
    from rnnmnist.training.run import train_and_evaluate

    enable_compilation_cache()
    distributed.initialize(*args.processes)
    with open_workdir(args.request, args.workdir) as start:
        if not distributed.is_process_0():
            distributed.wait_for_process_0()  # which prepares the data
        chosen, reason, dataset = datasets.load_for_training(args.request, start.config)
        if distributed.is_process_0():
            distributed.wait_for_process_0()
        config = resolve(chosen, dataset.task)
        mesh = start.check(config, dataset)
        train_and_evaluate(
            config,
            dataset,
            start,
            mesh,
            stop_on_signal(),
            reason=reason,
        )
