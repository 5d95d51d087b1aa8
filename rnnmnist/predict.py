"""Classifies images of digits, or sequences of files or of standard input.

    python -m rnnmnist.predict digit.png
    python -m rnnmnist.predict photos/ --json
    python -m rnnmnist.predict --workdir=checkpoints/files sequences.npz
    python -m rnnmnist.predict --workdir=checkpoints/files --stream < steps.csv

Images are PNG, JPEG, WebP, BMP or GIF files of any size and colours, with one digit
each; - is standard input. A network that was trained on files of sequences classifies
each sequence of such files, with or without labels. With --stream, each line of
standard input has the features of one step, separated by commas; an empty cell is a
missing value, and an empty line starts the next sequence. If a file cannot be read, the
others are still classified, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnmnist import errors
from rnnmnist.config.command_line import Parser, output_file
from rnnmnist.config.files import REFERENCES

if TYPE_CHECKING:
    from rnnmnist.inference.predictor import Prediction, Predictor

SEQUENCES_PER_CALL = 1024
SEVERAL = "--show: plots one image, not several; name one"


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UserError: if a flag or value is wrong, or no image is given.
    """
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
        "--show",
        metavar="FILE.png",
        help="plot the preprocessing and prediction of one image",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="read steps from standard input, and print one JSON object after each",
    )
    args = parser.parse(argv)
    if args.stream:
        if args.files or args.show:
            raise errors.UserError("--stream: takes no FILE and no --show")
        return args
    if not args.files:
        raise errors.UserError(f"FILE: name an image of a digit; {parser.prog} --help")
    if "" in args.files:
        raise errors.UserError("FILE: must name a file, a folder or -, not ''")
    if args.show is not None:
        args.show = output_file("--show", args.show, ".png")
        if len(args.files) > 1:
            raise errors.UserError(SEVERAL)
    return args


def main(argv: list[str]) -> None:
    """Prints the prediction for each file, sequence or step."""
    args = parse(argv)
    from rnnmnist.inference.predictor import Predictor
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    predictor, failed = Predictor(args.workdir, args.step), False
    if args.stream:
        stream(predictor)
        return
    sequences = predictor.task.image_shape is None
    if sequences and args.show is not None:
        raise errors.UserError("--show: plots an image; the run has sequences")
    if not sequences:
        predictor.check_digits()
    predict = predict_sequences if sequences else predict_images
    for argument in args.files:
        try:
            failed |= predict(predictor, argument, args)
        except errors.UserError as error:
            failed = True
            print_error(error)
    if failed:
        errors.exit_immediately("", errors.UserError.exit_code)


def predict_images(
    predictor: Predictor, argument: str, args: argparse.Namespace
) -> bool:
    """Prints the predictions for a file, or the files of a folder.

    Returns:
        Whether one of several files could not be read.

    Raises:
        UserError: if there is no such file.
    """
    from rnnmnist.inference import image_io

    names, failed = image_io.find_images(argument), False
    if args.show is not None and len(names) > 1:
        raise errors.UserError(SEVERAL)
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
    return failed


def predict_sequences(
    predictor: Predictor, argument: str, args: argparse.Namespace
) -> bool:
    """Prints the prediction for each sequence of a file.

    Raises:
        UserError: if the file cannot be read, has another number of features, or has
            missing values that the run does not fill.
    """
    from rnnmnist.data import files
    from rnnmnist.evaluation.formatting import probability

    sequences = files.read(Path(argument).expanduser(), labelled=False)
    count, features = len(sequences.inputs), sequences.inputs.shape[-1]
    if features != predictor.task.features:
        raise errors.UserError(
            f"{argument}: has {features} features, and the network "
            f"{predictor.task.features}"
        )
    for start in range(0, count, SEQUENCES_PER_CALL):
        part = slice(start, start + SEQUENCES_PER_CALL)
        lengths = None if sequences.lengths is None else sequences.lengths[part]
        try:
            found = predictor.classify(sequences.inputs[part], lengths)
        except ValueError as error:
            raise errors.UserError(f"{argument}: {error}") from error
        for index, probabilities in enumerate(found, start):
            result = label(predictor, probabilities)
            if args.json:
                print(json.dumps({"file": argument, "sequence": index} | result))
            else:
                text = probability(result["probability"])
                print(
                    f"{escape(argument)}, sequence {index}: {result['label']}, {text}"
                )
    return False


def stream(predictor: Predictor) -> None:
    """Prints a prediction after each step that standard input gives.

    Raises:
        UserError: if a line does not hold the features of a step.
    """
    state, step = predictor.start(), 0
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            state, step = predictor.start(), 0
            continue
        try:
            cells = [cell.strip() for cell in line.split(",")]
            values = np.array([float(cell or "nan") for cell in cells])
            state, probabilities = predictor.step(state, values)
        except ValueError as error:
            raise errors.UserError(f"line {number}: {error}") from error
        step += 1
        print(json.dumps({"step": step} | label(predictor, probabilities)), flush=True)


def label(predictor: Predictor, probabilities: np.ndarray) -> dict[str, Any]:
    """Returns the predicted class, and the probability of each, as JSON."""
    classes = dict(zip(predictor.task.classes, map(float, probabilities), strict=True))
    best = max(classes, key=lambda name: classes[name])
    return {"label": best, "probability": classes[best], "probabilities": classes}


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
