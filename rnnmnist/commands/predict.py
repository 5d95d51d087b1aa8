"""Classifies images of digits, or sequences in files or on standard input.

    rnnmnist predict digit.png
    rnnmnist predict photos/*.jpg --json
    rnnmnist predict --workdir=checkpoints/files sequences.npz
    rnnmnist predict --workdir=checkpoints/files --stream < sequence.csv

An image is a PNG, JPEG, WebP, BMP or GIF file that shows one digit, in any size and any
colours. Pass - to read an image from standard input. A network that was trained on
sequence files classifies all sequences in a file. The file does not need labels.

If you pass --stream, each line of standard input contains the features of one time
step, separated by commas. A missing value is an empty cell or nan. An empty line starts
the next sequence.

If a file cannot be read, the other files are still classified, and the exit code is 2.
If all files can be read but some logits are not finite, the exit code is 1.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rnnmnist.commands.command_line import Parser, open_model
from rnnmnist.config.files import REFERENCE_WORKDIRS
from rnnmnist.config.settings import expand_path
from rnnmnist.errors import (
    ExpectedError,
    UserError,
    convert_errors,
    escape_unprintable,
    prefix_errors,
)

if TYPE_CHECKING:
    import numpy as np

    from rnnmnist.inference.digit_images import Prediction
    from rnnmnist.model import Model

BLOCKS = " ▁▂▃▄▅▆▇█"
MAX_DIGITS = 4
MAX_COLUMNS = 56  # the maximum width of a sparkline


def main(argv: list[str]) -> None:
    """Prints a prediction for each image, sequence or time step."""
    parser = Parser("predict", __doc__)
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="file, folder, or - for standard input"
    )
    parser.add_run_arguments(
        default=REFERENCE_WORKDIRS[0],
        help="folder of the run (default: %(default)s, the reference model)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line"
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="read time steps from standard input and print a JSON object after each",
    )
    args = parser.parse(argv)
    if args.stream == bool(args.files) or "" in args.files:
        raise UserError(
            "FILE: pass at least one image or sequence file, or --stream without "
            f"files; {parser.prog} --help lists the flags"
        )
    from rnnmnist.runtime.compilation import use_cpu

    use_cpu()
    # The declared type of `sys.stdout`, TextIO, lacks this method.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    model = open_model(args)
    if args.stream:
        for result in predict_lines(model, sys.stdin):
            print(json.dumps(result), flush=True)
        return
    exit_code = predict_files(model, args.files, as_json=args.json)
    if exit_code:
        sys.exit(exit_code)


def predict_files(model: "Model", names: list[str], *, as_json: bool) -> int:
    """Prints the predictions or the error for each file; returns the exit code."""
    from rnnmnist.inference.digit_images import check_digits

    predict = predict_sequences
    if model.task.image_shape is not None:
        check_digits(model)
        predict = predict_image
    exit_code = 0
    for name in names:
        try:
            with convert_errors():
                predictions = list(predict(model, name))
        except ExpectedError as error:
            message = escape_unprintable(str(error))
            print(f"error: {message}", file=sys.stderr, flush=True)
            exit_code = max(exit_code, error.exit_code)
            continue
        for content, description in predictions:
            print(json.dumps(content) if as_json else description, flush=True)
    return exit_code


def predict_image(model: "Model", name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Classifies an image file; yields the JSON object and the text to print."""
    prediction = model.predict(sys.stdin.buffer.read() if name == "-" else name)
    content = {
        "file": name,
        "digit": prediction.digit,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities.tolist(),
    }
    yield content, f"{escape_unprintable(name)}: {_describe(prediction)}"


def _describe(prediction: "Prediction") -> str:
    """Formats a prediction, with a sparkline of the probability of each main digit.

    The main digits are the predicted digit, the second most probable digit, and the
    digits that were predicted after earlier time steps.
    """
    from rnnmnist.evaluation.formatting import format_probability

    if not prediction.image.any():
        return "the image is blank"
    probabilities = prediction.probabilities
    first, second, *_ = (-probabilities[-1]).argsort(kind="stable").tolist()
    last = probabilities[-1].tolist()
    summary = (
        f"{first}, {format_probability(last[first])} (then {second}, "
        f"{format_probability(last[second])})"
    )
    time_steps = len(probabilities)
    if time_steps == 1:
        return summary
    predicted_digits = probabilities.argmax(axis=1)[::-1].tolist()
    digits = list(dict.fromkeys([first, second, *predicted_digits]))[:MAX_DIGITS]
    # Select columns backwards from the last time step, which is always drawn.
    columns = probabilities[:: -math.ceil(time_steps / MAX_COLUMNS)][::-1]
    heights = ((len(BLOCKS) - 1) * columns).round().astype(int)
    lines = [summary]
    for digit in digits:
        sparkline = "".join(BLOCKS[height] for height in heights[:, digit])
        lines.append(f"  {digit}  {sparkline}".rstrip())
    axis = f"     1{time_steps:>{len(columns) - 1}}"
    lines.append(f"{axis}  time steps read; decided after {prediction.decision_time}")
    return "\n".join(lines)


def predict_sequences(
    model: "Model", name: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Classifies a file's sequences; yields the JSON object and the text of each."""
    from rnnmnist.data.sequences import reading
    from rnnmnist.evaluation.formatting import format_probability
    from rnnmnist.evaluation.inputs import to_inputs

    path = expand_path(name)
    roles, feature_names = model.config.data.roles, model.task.feature_names
    sequences = reading.read(path, roles, feature_names, both_splits=False)
    with prefix_errors(path):
        inputs = to_inputs(sequences, model.task, model.config.data)
        predictions = model.probabilities(inputs)
    for index, probabilities in enumerate(predictions):
        content: dict[str, Any] = {"file": name, "sequence": index}
        if sequences.ids is not None:
            content["id"] = sequences.ids[index]
        content |= _to_json(model, probabilities)
        sequence = escape_unprintable(str(content.get("id", index)))
        description = (
            f"{escape_unprintable(name)}, sequence {sequence}: {content['label']}, "
            f"{format_probability(content['probability'])}"
        )
        yield content, description


def predict_lines(model: "Model", lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields a JSON object with the prediction after each time step of a stream."""
    state, time = model.start(), 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            state, time = model.start(), 0
            continue
        source = f"standard input, line {number}"
        with prefix_errors(source, "write numbers separated by commas"):
            values = [float(cell.strip() or "nan") for cell in line.split(",")]
        with prefix_errors(source):
            state, probabilities = model.step(state, values)
        time += 1
        yield {"step": time} | _to_json(model, probabilities)


def _to_json(model: "Model", probabilities: "np.ndarray") -> dict[str, Any]:
    classes = dict(zip(model.task.classes, probabilities.tolist(), strict=True))
    label = max(classes, key=classes.__getitem__)
    return {"label": label, "probability": classes[label], "probabilities": classes}
