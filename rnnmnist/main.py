"""Trains a network that reads images row by row; goes on where it was stopped.

python -m rnnmnist.main --config=default --config.seed=1
"""

from rnnmnist import errors
from rnnmnist.config import command_line


def main(arguments: list[str]) -> None:
    """Trains as the command line says."""
    wanted = command_line.parse_training(arguments, __doc__ or "")
    # Only now what is slow to import, so that a mistyped flag is answered at once.
    from rnnmnist.runtime.compilation import keep_programs
    from rnnmnist.runtime.distributed import count, joined
    from rnnmnist.runtime.mesh import set_cpu_devices
    from rnnmnist.training.loop import train

    keep_programs()
    with joined(wanted.place):
        config = wanted.config
        set_cpu_devices(
            config.train.batch_size,
            config.train.num_devices,
            config.num_seeds,
            count(),
        )
        train(config, wanted.workdir)


if __name__ == "__main__":
    errors.run(main)
