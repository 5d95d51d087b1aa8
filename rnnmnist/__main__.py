"""Lists the commands and runs them: `rnnmnist train` is `python -m rnnmnist.main`."""

import importlib

import rnnmnist

# The module of each command. Functions of Python have the names of three of them, so
# that these commands are the module `__main__` of a package.
COMMANDS = {
    "train": "main",
    "evaluate": "evaluate.__main__",
    "predict": "predict",
    "export": "export.__main__",
    "report": "report.__main__",
    "page": "page",
    "doctor": "doctor",
}


def main(argv: list[str]) -> None:
    """Runs the command that the first argument names with the other arguments."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: rnnmnist COMMAND [FLAGS]; COMMAND --help lists its flags\n")
        for name, module in COMMANDS.items():
            doc = importlib.import_module(f"rnnmnist.{module}").__doc__ or ""
            print(f"  {name:<10}{doc.splitlines()[0]}")
        return
    if argv[0] == "--version":
        print(rnnmnist.__version__)
        return
    name, *rest = argv
    if name not in COMMANDS:
        from rnnmnist import errors

        raise errors.UserError(
            f"{name}: no such command; the commands are {', '.join(COMMANDS)}"
        )
    importlib.import_module(f"rnnmnist.{COMMANDS[name]}").main(rest)


def run() -> None:
    """Entry point of the console script `rnnmnist`."""
    rnnmnist._end_on_interrupt()
    from rnnmnist import cli  # imports much, which an interrupt then ends

    cli.run(main)


if __name__ == "__main__":
    run()
