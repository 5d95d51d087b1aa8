"""Exports a network to other runtimes, and compares the export with the checkpoint.

    rnnmnist export --workdir=DIR --format=all --output=FOLDER

Each format has a folder, which contains the network and a `certificate.json` with the
result of the comparison on all test examples. The ONNX folder also contains
`step.onnx`, which computes one time step of a stream, and `step_certificate.json`, with
the result of its comparison on the first test examples. The exit code is 1 if a
prediction differs and the logits of the two classes do not tie. The certificate counts
ties.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rnnmnist.commands.command_line import Parser, open_model
from rnnmnist.exporting.formats import FORMATS

if TYPE_CHECKING:
    from rnnmnist.exporting.comparison import Certificate


def main(argv: list[str]) -> None:
    """Writes the exports, and prints the result of each comparison."""
    parser = Parser("export", __doc__)
    parser.add_run_arguments(required=True)
    parser.add_argument(
        "--format", choices=[*FORMATS, "all"], required=True, help="export format"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", required=True, help="folder for the exports"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace existing exports in FOLDER"
    )
    args = parser.parse(argv)
    from rnnmnist.exporting.exports import write_exports
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    exports = write_exports(
        open_model(args), args.format, args.output, force=args.force
    )
    for name, (folder, certificate, step_certificate) in exports:
        print(format_certificate(folder / f"model.{name}", certificate), flush=True)
        if step_certificate is not None:
            print(format_certificate(folder / "step.onnx", step_certificate))
        elif name == "onnx":
            print(
                "step.onnx is not written: a network with model.bidirectional=True "
                "cannot read a stream"
            )


def format_certificate(artefact: Path, certificate: "Certificate") -> str:
    """Formats the result of a comparison on one line."""
    equal = certificate.examples - certificate.differing
    return (
        f"{artefact.name}: {equal:,} of {certificate.examples:,} predictions are "
        f"equal; logits differ by at most {certificate.max_abs_difference:.1e}, in "
        f"{artefact.parent}"
    )
