"""Reads the digit in image files, or in all images of a folder.

    python -m rnnmnist.predict digit.png
    python -m rnnmnist.predict digit.png --show=read.png
    python -m rnnmnist.predict photos/ --json

PNG, JPEG, WebP, BMP or GIF of any size, ink of any colour on paper of any other, one
digit an image; - is standard input. A file that cannot be read does not stop the rest;
the exit code is then 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, file_to_write
from rnnmnist.config.files import REFERENCES

if TYPE_CHECKING:
    from rnnmnist.inference.predictor import Prediction


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: for a wrong flag or value, or without an image.
    """
    parser = Parser("predict", __doc__)
    parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help="a file, a folder, or -"
    )
    parser.add_workdir(
        required=False,
        default=REFERENCES[0],
        help="of a run (%(default)s, the model that is shipped)",
    )
    parser.add_step()
    parser.add_argument("--json", action="store_true", help="a JSON object a file")
    parser.add_argument(
        "--show", metavar="FILE.png", help="draw how one image was prepared and read"
    )
    args = parser.parse(argv)
    if not args.images:
        raise errors.UserError(f"IMAGE: name an image of a digit; {parser.prog} --help")
    if "" in args.images:
        raise errors.UserError("IMAGE: must name a file, a folder or -, not ''")
    if args.show is not None:
        args.show = file_to_write("--show", args.show, ".png")
    return args


def main(argv: list[str]) -> None:
    """Prints the prediction for each file."""
    args = parse(argv)
    import jax

    from rnnmnist.inference import image_io, terminal
    from rnnmnist.inference.predictor import Predictor
    from rnnmnist.runtime.compilation import enable_compilation_cache

    # A moment's work, beside a trainer that may hold the accelerator.
    jax.config.update("jax_platforms", "cpu")
    enable_compilation_cache()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    predictor, failed = Predictor(args.workdir, args.step), False
    for word in args.images:
        try:
            names = image_io.find(word)
            if args.show is not None and len(names) * len(args.images) > 1:
                raise errors.UserError("--show: draws one image, not several; name one")
        except errors.UserError as error:
            names, failed = [], True
            complain(error)
        for name in names:
            try:
                reading = predictor.predict(name)
            except errors.UserError as error:
                failed = True
                complain(error)
                continue
            if args.json:
                print(json.dumps({"file": name} | reading.to_dict()), flush=True)
            else:
                print(*terminal.lines(shown(name), reading), sep="\n", flush=True)
            if args.show is not None:
                draw(reading, args.show)
    if failed:
        errors.leave("", errors.UserError.exit_code)


def draw(reading: Prediction, file: Path) -> None:
    """Writes the picture of a reading.

    Raises:
        UserError: when it cannot be written.
    """
    from rnnmnist.reporting import plots

    try:
        file.write_bytes(plots.reading(reading.stages, reading.probabilities))
    except OSError as error:
        raise errors.UserError(
            f"--show: {file} cannot be written: {error.strerror or error}"
        ) from error


def complain(error: errors.UserError) -> None:
    """Says on standard error, in one line, what is wrong with a file."""
    print(f"error: {shown(str(error))}", file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """A text in one line; what cannot be printed, as an escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


if __name__ == "__main__":
    errors.run(main)
