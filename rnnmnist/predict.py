"""Classifies images of digits, or sequences of files or of standard input.

    rnnmnist predict digit.png
    rnnmnist predict photos/ --json
    rnnmnist predict --workdir=checkpoints/files sequences.npz
    rnnmnist predict --workdir=checkpoints/files --stream < sequence.csv

Images are PNG, JPEG, WebP, BMP or GIF files of any size and colours, with one digit
each; - is standard input. A network that was trained on files of sequences classifies
each sequence of such files, with or without labels. With --stream, each line of
standard input has the features of one time step, separated by commas; nan, or an empty
cell beside others, is a missing value, and an empty line starts the next sequence. If a
file cannot be read, the others are still classified, and the exit code is 2, or 1 if
all files were read but logits are not finite.
"""

import argparse
import json
import sys

from rnnmnist import cli, errors
from rnnmnist.config.files import REFERENCES


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = cli.Parser("predict", __doc__)
    parser.add_argument("files", metavar="FILE", nargs="*", help="file, folder, or -")
    parser.add_workdir(
        required=False,
        default=REFERENCES[0],
        help="folder of the run (default: %(default)s, the reference model)",
    )
    parser.add_step_and_paths()
    parser.add_argument("--json", action="store_true", help="print lines of JSON")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="read time steps from standard input, and print a JSON object after each",
    )
    args = parser.parse(argv)
    if args.stream == bool(args.files) or "" in args.files:
        raise errors.UserError(
            "FILE: name images of digits or files of sequences, or set --stream alone; "
            f"{parser.prog} --help"
        )
    return args


def main(argv: list[str]) -> None:
    """Prints the prediction for each file, sequence or time step."""
    args = parse(argv)
    from rnnmnist.inference import image_io, text
    from rnnmnist.inference.predictor import Predictor
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    # The declared type is that of any stream; Python's and ours have the method.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    paths = cli.parse_settings(args)
    predictor = Predictor(args.workdir, args.step, paths, args.cell)
    if args.stream:
        for result in text.predict_lines(predictor, sys.stdin):
            print(json.dumps(result), flush=True)
        return
    names = args.files
    predict = text.predict_sequences
    if predictor.task.image_shape is not None:
        predictor.check_digits()
        names = [image for name in names for image in image_io.find_images(name)]
        predict = text.predict_image
    exit_code = 0
    for name in names:
        try:
            predictions = list(predict(predictor, name))
        except (errors.Failure, OSError) as error:
            failure = errors.as_failure(error)
            if failure is None:
                raise
            message = errors.escape_unprintable(str(failure))
            print(f"error: {message}", file=sys.stderr, flush=True)
            exit_code = max(exit_code, failure.exit_code)
        else:
            for prediction in predictions:
                content = json.dumps(prediction.content)
                print(content if args.json else prediction.description, flush=True)
    if exit_code:
        sys.exit(exit_code)


if __name__ == "__main__":
    cli.run(main)
