"""Writes a trained network for other runtimes, and compares it with the checkpoint.

    python -m rnnmnist.export --workdir=DIR --format=all --output=FOLDER

Each format gets a folder with the network and a `certificate.json`, which contains the
result of the comparison on every test example. The exit code is 1 if a prediction
differs, unless the logits of the two classes are equal but for rounding.
"""

from rnnmnist import cli
from rnnmnist.export import export_each
from rnnmnist.exporting.formats import FORMATS


def main(argv: list[str]) -> None:
    """Writes exports, and prints how each compares with the checkpoint."""
    parser = cli.Parser("export", __doc__)
    parser.add_workdir()
    parser.add_argument(
        "--format", choices=[*FORMATS, "all"], required=True, help="what to write"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="where to write it"
    )
    parser.add_argument("--force", action="store_true", help="replace those in FOLDER")
    parser.add_step_and_paths()
    args = parser.parse(argv)
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    exports = export_each(
        args.workdir,
        format=args.format,
        output=args.output,
        force=args.force,
        selector=args.step,
        paths=cli.parse_settings(args),
        cell=args.cell,
    )
    for name, (folder, certificate) in exports:
        equal = certificate.examples - certificate.differing
        print(
            f"{name}: {equal:,} of {certificate.examples:,} predictions are equal; "
            f"logits differ by at most {certificate.max_abs_difference:.1e}, in "
            f"{folder}",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main)
