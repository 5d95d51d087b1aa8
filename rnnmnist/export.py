"""Writes a trained network for other runtimes, and certifies that it is the same one.

    python -m rnnmnist.export --workdir=DIR --format=all --output=FOLDER
    python -m rnnmnist.export --verify=FOLDER

Each format gets a folder with the network, a `predict.py` that runs it without this
package, and a `certificate.json`, which compares the predictions for every test example
with those of the checkpoint. --verify repeats the comparison. Its exit code is 1 if a
file, the checkpoint, the data or a prediction has changed.
"""

import argparse
from pathlib import Path

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, data_paths

FORMATS = ("onnx", "safetensors", "stablehlo")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: if a flag or value is wrong or missing.
    """
    parser = Parser("export", __doc__)
    parser.add_workdir(required=False)
    parser.add_step()
    parser.add_argument("--format", choices=[*FORMATS, "all"], help="what to write")
    parser.add_argument("--output", metavar="FOLDER", help="where to write it")
    parser.add_argument(
        "--force", action="store_true", help="replace the exports in FOLDER"
    )
    parser.add_argument("--verify", metavar="FOLDER", help="certify again; used alone")
    parser.add_data_paths()
    args = parser.parse(argv)
    if args.verify is not None:
        if len(argv) > 1 or not args.verify:
            raise errors.UserError("--verify: takes a folder and no other flag")
        return args
    for flag in ("workdir", "format", "output"):
        if not getattr(args, flag):
            raise errors.UserError(f"--{flag}: is required; {parser.prog} --help")
    return args


def main(argv: list[str]) -> None:
    """Writes or verifies exports.

    Raises:
        RunError: if a verified export has changed.
    """
    args = parse(argv)
    if args.verify is not None:
        verify(Path(args.verify))
    else:
        export(args)


def export(args: argparse.Namespace) -> None:
    """Writes the exports that the flags describe, and prints what was compared."""
    from rnnmnist.checkpoints.selection import with_step
    from rnnmnist.checkpoints.store import read_config
    from rnnmnist.exporting import folders
    from rnnmnist.exporting.source import Source
    from rnnmnist.runtime.compilation import use_cpu

    folder, workdir = Path(args.output).expanduser(), args.workdir
    names = [name for name in FORMATS if args.format in (name, "all")]
    use_cpu()
    config = with_step(workdir, args.step, lambda step: read_config(workdir, step))
    for name in list(names):
        if not folders.supports(name, config):
            message = f"{name} supports no model.cell={config.model.cell}"
            if args.format != "all":
                raise errors.UserError(f"--format: {message}; use --format=stablehlo")
            print(f"{name}: not written, since {message}")
            names.remove(name)
    folders.check_formats(names)
    folders.check_output(folder, names, args.force)
    source = Source.load(workdir, args.step, data_paths(args))
    for name in names:
        certificate = folders.write(source, name, folder)
        print(f"{name}: {certificate.describe()}, in {folder / name}", flush=True)


def verify(folder: Path) -> None:
    """Repeats the certificates in a folder, and prints the result of each.

    Raises:
        RunError: if something has changed.
    """
    from rnnmnist.exporting import folders
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    changed = False
    for name, changes in folders.verify(folder):
        print(f"{name}: {'; '.join(changes) or 'unchanged'}", flush=True)
        changed |= bool(changes)
    if changed:
        raise errors.RunError(f"--verify: exports in {folder} have changed")


if __name__ == "__main__":
    errors.run(main)
