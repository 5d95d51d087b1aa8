"""Classifies the digit in image files, or in all images of a folder.

    python -m rnnmnist.predict digit.png
    python -m rnnmnist.predict digit.png --show=prediction.png
    python -m rnnmnist.predict photos/ --json

Images are PNG, JPEG, WebP, BMP or GIF files of any size and colours, with one digit
each; - is standard input. If a file cannot be read, the others are still classified,
and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, output_file
from rnnmnist.config.files import REFERENCES

if TYPE_CHECKING:
    from rnnmnist.inference.predictor import Prediction

SEVERAL = "--show: plots one image, not several; name one"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: if a flag or value is wrong, or no image is given.
    """
    parser = Parser("predict", __doc__)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help="a file, a folder, or -"
    )
    parser.add_workdir(
        required=False,
        default=REFERENCES[0],
        help="folder of the run (default: %(default)s, the reference model)",
    )
    parser.add_step()
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per file"
    )
    parser.add_argument(
        "--show",
        metavar="FILE.png",
        help="plot the preprocessing and prediction of one image",
    )
    args = parser.parse(argv)
    if not args.images:
        raise errors.UserError(f"IMAGE: name an image of a digit; {parser.prog} --help")
    if "" in args.images:
        raise errors.UserError("IMAGE: must name a file, a folder or -, not ''")
    if args.show is not None:
        args.show = output_file("--show", args.show, ".png")
        if len(args.images) > 1:
            raise errors.UserError(SEVERAL)
    return args


def main(argv: list[str]) -> None:
    """Prints the prediction for each file."""
    args = parse(argv)
    from rnnmnist.inference import image_io
    from rnnmnist.inference.predictor import Predictor
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    predictor, failed = Predictor(args.workdir, args.step), False
    for argument in args.images:
        try:
            names = image_io.find_images(argument)
            if args.show is not None and len(names) > 1:
                raise errors.UserError(SEVERAL)
        except errors.UserError as error:
            names, failed = [], True
            print_error(error)
        for name in names:
            try:
                prediction = predictor.predict(name)
            except errors.UserError as error:
                failed = True
                print_error(error)
            else:
                print_prediction(name, prediction, args.json)
                if args.show is not None:
                    plot(prediction, args.show)
    if failed:
        errors.exit_immediately("", errors.UserError.exit_code)


def print_prediction(name: str, prediction: Prediction, as_json: bool) -> None:
    """Prints a prediction as a JSON object, or for people."""
    from rnnmnist.inference import terminal

    if as_json:
        lines = [json.dumps({"file": name} | prediction.to_dict())]
    else:
        lines = terminal.format_prediction(escape(name), prediction)
    print(*lines, sep="\n", flush=True)


def plot(prediction: Prediction, file: Path) -> None:
    """Writes the plot of a prediction.

    Raises:
        UserError: if it cannot be written.
    """
    from rnnmnist.reporting import plots

    try:
        file.write_bytes(plots.prediction(prediction.stages, prediction.probabilities))
    except OSError as error:
        raise errors.UserError(
            f"--show: {file} cannot be written: {error.strerror or error}"
        ) from error


def print_error(error: errors.UserError) -> None:
    """Prints an error in one line to standard error."""
    print(f"error: {escape(str(error))}", file=sys.stderr, flush=True)


def escape(text: str) -> str:
    """Replaces characters that cannot be printed, line breaks included, by escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


if __name__ == "__main__":
    errors.run(main)
