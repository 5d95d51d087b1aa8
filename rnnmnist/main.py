"""Entry point of `python -m rnnmnist.main`, the same as `rnnmnist train`."""

from rnnmnist.commands import command_line, train

if __name__ == "__main__":
    command_line.run(train.main)
