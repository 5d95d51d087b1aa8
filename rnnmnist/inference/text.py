"""The text and the JSON objects that `rnnmnist.predict` prints."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.arithmetic import ceil_div
from rnnmnist.config.settings import expand
from rnnmnist.errors import (
    UserError,
    escape_unprintable,
    format_value,
    prefix_errors,
)
from rnnmnist.evaluation.metrics import format_probability
from rnnmnist.inference.predictor import Prediction, Predictor

BLOCKS = " ▁▂▃▄▅▆▇█"
MAX_DIGITS = 4
MAX_COLUMNS = 56  # the width of a sparkline


class PrintedPrediction(NamedTuple):
    """A prediction in the two forms that `rnnmnist.predict` prints."""

    content: dict[str, Any]  # a JSON object, for `--json`
    description: str


def predict_image(predictor: Predictor, name: str) -> Iterator[PrintedPrediction]:
    """Classifies an image file."""
    prediction = predictor.predict(name)
    result = {
        "file": name,
        "digit": prediction.digit,
        "probability": prediction.probability,
        "probabilities": prediction.probabilities.tolist(),
    }
    description = f"{escape_unprintable(name)}: {_describe(prediction)}"
    yield PrintedPrediction(result, description)


def _describe(prediction: Prediction) -> str:
    """Describes a prediction in several lines.

    Sparklines show the probabilities of the digit, of the second most probable one, and
    of those that were the most probable ones before.
    """
    if not prediction.stages.image.any():
        return "the image is blank"
    last = prediction.probabilities[-1].tolist()
    first, second, *_ = sorted(range(len(last)), key=lambda digit: -last[digit])
    summary = (
        f"{first}, {format_probability(last[first])} (then {second}, "
        f"{format_probability(last[second])})"
    )
    if len(prediction.probabilities) == 1:
        return summary
    lines = [summary]
    before = prediction.probabilities.argmax(-1).tolist()
    every = ceil_div(len(before), MAX_COLUMNS)
    # The time steps are counted from the last one, which is always a column.
    columns = prediction.probabilities[::-every][::-1]
    digits = list(dict.fromkeys([first, second, *reversed(before)]))
    for digit in digits[:MAX_DIGITS]:
        heights = np.rint((len(BLOCKS) - 1) * columns[:, digit]).astype(int)
        sparkline = "".join(BLOCKS[height] for height in heights)
        lines.append(f"  {digit}  {sparkline}".rstrip())
    axis = f"     1{len(before):>{len(columns) - 1}}"
    lines.append(f"{axis}  time steps read; decided after {prediction.decision_time}")
    return "\n".join(lines)


def predict_sequences(predictor: Predictor, name: str) -> Iterator[PrintedPrediction]:
    """Classifies each sequence of a file."""
    from rnnmnist.data.sequences import reading  # imports pyarrow

    path = expand(name)
    roles, wanted = predictor.config.data.roles, predictor.task.feature_names
    sequences = reading.read(path, roles, wanted, pair=False)
    with prefix_errors(path):
        predictions = predictor.probabilities(predictor.sequence_inputs(sequences))
    for index, probabilities in enumerate(predictions):
        result = _to_json(predictor, probabilities)
        place: dict[str, str | int] = {"file": name, "sequence": index}
        if sequences.ids is not None:
            place["id"] = sequences.ids[index]
        sequence = escape_unprintable(str(place.get("id", index)))
        description = (
            f"{escape_unprintable(name)}, sequence {sequence}: {result['label']}, "
            f"{format_probability(result['probability'])}"
        )
        yield PrintedPrediction(place | result, description)


def predict_lines(
    predictor: Predictor, lines: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yields the predictions for the lines of `predict --stream`, as JSON objects."""
    state, time = predictor.start(), 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            state, time = predictor.start(), 0
            continue
        with prefix_errors(f"standard input, line {number}"):
            if "_" in line:  # which float() would ignore
                raise UserError(
                    f"{format_value(line.strip())} contains an underscore; remove it"
                )
            try:
                values = [float(cell.strip() or "nan") for cell in line.split(",")]
            except ValueError as error:
                raise UserError(str(error)) from error
            state, probabilities = predictor.step(state, values)
        time += 1
        yield {"step": time} | _to_json(predictor, probabilities)


def _to_json(predictor: Predictor, probabilities: np.ndarray) -> dict[str, Any]:
    classes = dict(zip(predictor.task.classes, probabilities.tolist(), strict=True))
    best = max(classes, key=lambda name: classes[name])
    return {"label": best, "probability": classes[best], "probabilities": classes}
