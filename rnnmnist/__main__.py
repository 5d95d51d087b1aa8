"""Entry point of `rnnmnist COMMAND` and `python -m rnnmnist COMMAND`."""

import importlib
from importlib import metadata

from rnnmnist import errors
from rnnmnist.commands import command_line

COMMANDS = ("train", "evaluate", "predict", "export", "report", "page", "doctor")


def main(argv: list[str]) -> None:
    """Runs the command `argv[0]` with the remaining arguments, or lists commands."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: rnnmnist COMMAND [FLAGS]; rnnmnist COMMAND --help lists FLAGS\n")
        for name in COMMANDS:
            doc = importlib.import_module(f"rnnmnist.commands.{name}").__doc__ or ""
            print(f"  {name:<10}{doc.splitlines()[0]}")
        return
    if argv[0] == "--version":
        print(metadata.version("rnnmnist"))
        return
    name, *rest = argv
    if name not in COMMANDS:
        raise errors.UserError(
            f"{name}: no such command; the commands are {', '.join(COMMANDS)}"
        )
    importlib.import_module(f"rnnmnist.commands.{name}").main(rest)


def run() -> None:
    """Entry point of the console script `rnnmnist`."""
    command_line.run(main)


if __name__ == "__main__":
    run()
