"""Trains a network that reads images row by row; goes on where it was stopped.

python -m rnnmnist.main --config=default --config.seed=1
"""

from rnnmnist import errors, flags


def main(arguments: list[str]) -> None:
    """Trains as the command line says."""
    config, workdir = flags.parse_training(arguments, __doc__ or "")
    # Only now what is slow to import, so that a mistyped flag is answered at once.
    from rnnmnist.compilation import keep_programs
    from rnnmnist.mesh import set_cpu_devices
    from rnnmnist.train import train

    keep_programs()
    set_cpu_devices(config.train.batch_size, config.train.num_devices)
    train(config, workdir)


if __name__ == "__main__":
    errors.run(main)
