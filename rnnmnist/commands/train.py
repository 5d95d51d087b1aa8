"""Trains a network, or resumes a run from its latest checkpoint.

    rnnmnist train --config=default --config.seed=1

Pass --config.KEY=VALUE to change a setting of the configuration.
"""

import argparse
import sys

from rnnmnist.commands import command_line
from rnnmnist.errors import discard_output


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_training_parser("train", __doc__)
    return command_line.parse_training(parser, argv)


def main(argv: list[str]) -> None:
    """Starts or resumes a run."""
    args = parse(argv)
    from rnnmnist.data.datasets import open_data_source
    from rnnmnist.runtime import distributed
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.signals import stop_on_signal
    from rnnmnist.training.resume import open_run
    from rnnmnist.training.run import train_and_evaluate

    enable_compilation_cache()
    distributed.initialize(*args.processes)
    try:
        with open_run(args.request, args.workdir, open_data_source) as run:
            train_and_evaluate(run, stop_on_signal())
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # `Progress` has already logged a warning
            discard_output()
