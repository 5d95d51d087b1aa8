"""Entry point of `python -m rnnmnist.evaluate`, the same as `rnnmnist evaluate`."""

from rnnmnist.commands import command_line, evaluate

if __name__ == "__main__":
    command_line.run(evaluate.main)
