"""Exports a trained network to other runtimes, and compares it with the checkpoint.

    rnnmnist export --workdir=DIR --format=all --output=FOLDER

The folder of each format contains the network and a `certificate.json` with the result
of the comparison on all examples of the evaluated split. The exit code is 1 if a
prediction differs, except for ties between the logits of the two classes, which the
certificate counts. For random filters, close logits also count as ties.
"""

from rnnmnist.commands.command_line import Parser, open_model
from rnnmnist.exporting.formats import FORMATS


def main(argv: list[str]) -> None:
    """Writes the exports, and prints the result of each comparison."""
    parser = Parser("export", __doc__)
    parser.add_run_arguments(required=True)
    parser.add_argument(
        "--format", choices=[*FORMATS, "all"], required=True, help="format to write"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="folder to write to"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace exports in FOLDER"
    )
    args = parser.parse(argv)
    from rnnmnist.exporting.exports import write_exports
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    exports = write_exports(
        open_model(args), args.format, args.output, force=args.force
    )
    for name, certificate in exports:
        equal = certificate.examples - certificate.differing
        print(
            f"{args.output}/{name}/model.{name}: {equal:,} of "
            f"{certificate.examples:,} predictions are equal; logits differ by at most "
            f"{certificate.max_abs_difference:.1e}",
            flush=True,
        )
