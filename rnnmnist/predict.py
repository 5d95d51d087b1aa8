"""Classifies images of digits, or sequences of files or of standard input.

    python -m rnnmnist.predict digit.png
    python -m rnnmnist.predict photos/ --json
    python -m rnnmnist.predict --workdir=checkpoints/files sequences.npz
    python -m rnnmnist.predict --workdir=checkpoints/files --stream < sequence.csv

Images are PNG, JPEG, WebP, BMP or GIF files of any size and colours, with one digit
each; - is standard input. A network that was trained on files of sequences classifies
each sequence of such files, with or without labels. With --stream, each line of
standard input has the features of one time step, separated by commas; an empty cell is
a missing value, and an empty line starts the next sequence. If a file cannot be read,
the others are still classified, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rnnmnist import cli, errors
from rnnmnist.cli import Parser
from rnnmnist.config.files import REFERENCES, expand

if TYPE_CHECKING:
    from rnnmnist.inference.predictor import Predictor

IMAGES_PER_CALL = 32


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser("predict", __doc__)
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="a file, a folder, or -"
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
        "--stream",
        action="store_true",
        help="read time steps from standard input, and print a JSON object after each",
    )
    args = parser.parse(argv)
    if args.stream:
        if args.files:
            raise errors.UserError("--stream: takes no FILE")
        return args
    if not args.files:
        raise errors.UserError(
            "FILE: name an image of a digit, or a file of sequences; "
            f"{parser.prog} --help"
        )
    if "" in args.files:
        raise errors.UserError("FILE: must name a file, a folder or -, not ''")
    return args


def main(argv: list[str]) -> None:
    """Prints the prediction for each file, sequence or time step."""
    args = parse(argv)
    from rnnmnist.inference.predictor import Predictor
    from rnnmnist.inference.text import predict_lines
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    predictor = Predictor(args.workdir, args.step)
    unreadable: list[str] = []
    if args.stream:
        for result in predict_lines(predictor, sys.stdin):
            print(json.dumps(result), flush=True)
    elif predictor.task.image_shape is None:
        predict_sequences(predictor, args, unreadable)
    else:
        predict_images(predictor, args, unreadable)
    if unreadable:
        sys.exit(errors.UserError.exit_code)


def predict_images(
    predictor: Predictor, args: argparse.Namespace, unreadable: list[str]
) -> None:
    """Prints the predictions for files and for the files of folders."""
    from rnnmnist.inference import image_io
    from rnnmnist.inference.predictor import preprocess_image
    from rnnmnist.inference.text import format_prediction

    predictor.check_digits()
    names: list[str] = []
    for argument in args.files:
        with skip_unreadable(argument, unreadable):
            names += image_io.find_images(argument)
    start = time.perf_counter()
    # The first image alone, so that its prediction does not wait for others.
    rest = range(1, len(names), IMAGES_PER_CALL)
    for first, size in [(0, 1), *((first, IMAGES_PER_CALL) for first in rest)]:
        images = []
        for name in names[first : first + size]:
            with skip_unreadable(name, unreadable):
                images.append((name, preprocess_image(name)))
        # Batches have one of two sizes, each of which is a compiled program.
        filled = [stages for _, stages in images] * size
        predictions = predictor.predict_preprocessed(filled[:size])
        for (name, _), prediction in zip(images, predictions, strict=False):
            if args.json:
                lines = [json.dumps({"file": name} | prediction.to_dict())]
            else:
                lines = format_prediction(errors.printable(name), prediction)
            print(*lines, sep="\n", flush=True)
    if len(names) > 1 and not unreadable:
        seconds = time.perf_counter() - start
        print(
            f"{len(names):,} images in {seconds:.1f} s, "
            f"{len(names) / seconds:,.0f} images/s",
            file=sys.stderr,
        )


def predict_sequences(
    predictor: Predictor, args: argparse.Namespace, unreadable: list[str]
) -> None:
    """Prints the prediction for each sequence of files."""
    from rnnmnist.evaluation.metrics import probability
    from rnnmnist.inference.text import predict_file

    for argument in args.files:
        results = []
        with skip_unreadable(argument, unreadable):
            results = predict_file(predictor, expand(argument))
        for result in results:
            if args.json:
                print(json.dumps({"file": argument} | result))
            else:
                print(
                    f"{errors.printable(argument)}, sequence {result['sequence']}: "
                    f"{result['label']}, {probability(result['probability'])}"
                )


@contextlib.contextmanager
def skip_unreadable(name: str, unreadable: list[str]) -> Iterator[None]:
    """Prints the error if a file or folder cannot be read, and records its name."""
    try:
        yield
    except (errors.UserError, OSError) as error:
        if (failure := errors.as_run_error(error)) is None:
            raise
        unreadable.append(name)
        line = f"error: {errors.printable(cli.format_error(failure))}"
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
