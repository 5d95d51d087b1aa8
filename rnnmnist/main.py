"""Trains a network, or resumes a run from its newest checkpoint.

python -m rnnmnist.main --config=default --config.seed=1
"""

from rnnmnist import errors
from rnnmnist.config.command_line import TrainingArgs, parse_training, training_parser


def parse(argv: list[str]) -> TrainingArgs:
    """Parses the command line."""
    return parse_training(training_parser("main", __doc__), argv)[0]


def main(argv: list[str]) -> None:
    """Trains as the command line says."""
    args = parse(argv)
    # Imported only now: a mistyped flag is answered before jax is loaded.
    from rnnmnist.runtime import distributed
    from rnnmnist.runtime.compilation import enable_compilation_cache
    from rnnmnist.runtime.mesh import set_cpu_devices
    from rnnmnist.training.loop import train

    enable_compilation_cache()
    with distributed.initialize(args.processes):
        config = args.config
        set_cpu_devices(
            config.train.batch_size,
            config.train.num_devices,
            config.num_seeds,
            distributed.count(),
        )
        train(config, args.workdir)


if __name__ == "__main__":
    errors.run(main)
