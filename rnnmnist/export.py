"""Writes a trained network for other runtimes, and certifies that it is the same one.

    python -m rnnmnist.export --workdir=DIR --format=all --output=FOLDER
    python -m rnnmnist.export --verify=FOLDER

Each format gets a folder with the network, a `predict.py` that runs it without this
package, and a `certificate.json`, which compares the predictions for every test example
with those of the checkpoint. The exit code is 1 if one differs. --verify repeats the
comparison; --workdir and --config.data.path name what has moved. Its exit code is 1 if
a file, the checkpoint, the data or a prediction has changed.
"""

import argparse
from pathlib import Path

from rnnmnist import cli, errors
from rnnmnist.config.files import parse_folder
from rnnmnist.exporting.formats import FORMATS, SUPPORTED_CELLS, check_packages


def main(argv: list[str]) -> None:
    """Writes or verifies exports."""
    parser = cli.Parser("export", __doc__)
    parser.add_workdir(required=False)
    parser.add_argument("--format", choices=[*FORMATS, "all"], help="what to write")
    parser.add_argument("--output", metavar="FOLDER", help="where to write it")
    parser.add_argument("--force", action="store_true", help="replace those in FOLDER")
    parser.add_argument("--verify", metavar="FOLDER", help="certify again")
    parser.add_step_and_paths()
    args = parser.parse(argv)
    if args.verify is None:
        for flag in ("workdir", "format", "output"):
            if getattr(args, flag) is None:
                raise errors.UserError(f"--{flag}: is required; {parser.prog} --help")
        export(args, parse_folder(args.output, "output"))
    elif args.format or args.output or args.force or args.step != "best":
        raise errors.UserError("--verify: takes --workdir and paths of data only")
    else:
        verify(args, parse_folder(args.verify, "verify"))


def export(args: argparse.Namespace, output: Path) -> None:
    """Writes exports, and prints how each compares with the checkpoint."""
    from rnnmnist.evaluation.network import TrainedNetwork
    from rnnmnist.exporting import certificates
    from rnnmnist.exporting.source import Source
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    network = TrainedNetwork(args.workdir, args.step, paths=cli.parse_settings(args))
    model = network.config.model
    if model.cell not in SUPPORTED_CELLS and args.format != "stablehlo":
        raise errors.UserError(
            f"--format: only stablehlo supports model.cell={model.cell}; use "
            "--format=stablehlo"
        )
    names = list(FORMATS) if args.format == "all" else [args.format]
    for name in names:
        if (output / name).exists() and not args.force:
            raise errors.UserError(
                f"--output: {output / name} exists; name another folder, or "
                "replace it with --force"
            )
    check_packages(names)
    source = Source.create(network)
    differing = []
    for name in names:
        result = certificates.write(source, name, output)
        print(
            f"{name}: {result.examples - result.differing:,} of {result.examples:,} "
            "predictions are equal; logits differ by at most "
            f"{result.max_abs_difference:.1e}, in {output / name}",
            flush=True,
        )
        if result.differing:
            differing.append(name)
    if differing:
        raise errors.RunError(
            f"{' and '.join(differing)} in {output} predict another class for "
            "some examples"
        )


def verify(args: argparse.Namespace, folder: Path) -> None:
    """Repeats the certificates in a folder, and prints the result of each."""
    from rnnmnist.exporting import certificates
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    changed = []
    paths = cli.parse_settings(args)
    for name, changes in certificates.verify(folder, args.workdir, paths):
        print(f"{name}: {'; '.join(changes) or 'unchanged'}", flush=True)
        if changes:
            changed.append(name)
    if changed:
        raise errors.RunError(f"--verify: {' and '.join(changed)} changed")


if __name__ == "__main__":
    cli.run(main)
