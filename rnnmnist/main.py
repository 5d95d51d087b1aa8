"""Trains a network, or resumes a run from its newest checkpoint.

    python -m rnnmnist.main --config=default --config.seed=1

Any setting can be given as --config.KEY=VALUE.
"""

import dataclasses

from rnnmnist import cli
from rnnmnist.cli import TrainingArgs, parse_training, training_parser
from rnnmnist.config.tasks import fit_to_task


def parse(argv: list[str]) -> TrainingArgs:
    """Parses the command line."""
    args, _ = parse_training(training_parser("main", __doc__), argv)
    from rnnmnist.data.datasets import read_task

    config = fit_to_task(args.config, read_task(args.config.data))
    return dataclasses.replace(args, config=config)


def main(argv: list[str]) -> None:
    """Trains, or resumes, the run of the command line."""
    args = parse(argv)
    # Imported after parsing, so that errors in flags do not wait for jax.
    from rnnmnist.runtime import distributed
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.mesh import set_cpu_devices
    from rnnmnist.runtime.signals import stop_on_signal
    from rnnmnist.training.loop import train

    enable_compilation_cache()
    with distributed.initialize(args.processes):
        config = args.config
        set_cpu_devices(
            config.train.batch_size,
            config.execution.num_devices,
            config.num_seeds,
            distributed.process_count(),
        )
        train(config, args.workdir, stop_on_signal())


if __name__ == "__main__":
    cli.run(main)
