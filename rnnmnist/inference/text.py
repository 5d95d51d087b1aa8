"""Predictions as text and as JSON objects, and those for sequences from text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import probability
from rnnmnist.inference.predictor import Prediction, Predictor

BLOCKS = " ▁▂▃▄▅▆▇█"
MAX_DIGITS = 4
MAX_COLUMNS = 56  # of a sparkline


def format_prediction(name: str, prediction: Prediction) -> list[str]:
    """Returns the lines that describe the prediction for the image file `name`."""
    if prediction.stages.blank:
        return [f"{name}: the image is blank; this does not look like a digit"]
    summary = (
        f"{name}: {prediction.digit}, {probability(prediction.probability)} "
        f"(then {prediction.runner_up}, "
        f"{probability(prediction.runner_up_probability)})"
    )
    if not prediction.looks_like_digit:
        summary += "; this does not look like a digit"
    lines = [
        f"  {digit}  {sparkline(prediction, digit)}".rstrip()
        for digit in candidates(prediction)
    ]
    time_steps = len(prediction.probabilities)
    width = len(sparkline(prediction, 0)) - 1
    axis = f"     1{time_steps:>{width}}  time steps read; decided after "
    return [summary, *lines, f"{axis}{prediction.decision_time}"]


def candidates(prediction: Prediction) -> list[int]:
    """Returns the digit, the runner-up, and others that led after some time step."""
    leaders = prediction.probabilities.argmax(-1)
    others = sorted(set(leaders.tolist()), key=lambda digit: -(leaders == digit).sum())
    ranked = dict.fromkeys([prediction.digit, prediction.runner_up, *others])
    return list(ranked)[:MAX_DIGITS]


def sparkline(prediction: Prediction, digit: int) -> str:
    """Returns the probability of a digit at evenly spaced times, as blocks."""
    curve = prediction.probabilities[:, digit]
    every = -(-len(curve) // MAX_COLUMNS)
    shown = curve[::-1][::every][::-1]  # with the last one
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * float(p))] for p in shown)


def predict_file(predictor: Predictor, path: Path) -> list[dict[str, Any]]:
    """Returns the prediction for each sequence of a file, as a JSON object."""
    from rnnmnist.data.sequences import reading  # imports pyarrow

    sequences = reading.read(path, training=False, pair=False)
    reading.check_features(sequences, predictor.task)
    try:
        found = predictor.classify(sequences.inputs, sequences.lengths)
    except ValueError as error:  # of a value
        raise UserError(f"{path}: {error}") from error
    return [
        {"sequence": index} | _to_json(predictor, probabilities)
        for index, probabilities in enumerate(found)
    ]


def predict_lines(
    predictor: Predictor, lines: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yields the prediction after each time step, as a JSON object.

    A line has the features of a time step, separated by commas; an empty cell is a
    missing value. An empty line starts the next sequence.
    """
    state = predictor.start()
    time = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            state = predictor.start()
            time = 0
            continue
        try:
            cells = [cell.strip() for cell in line.split(",")]
            values = np.array([float(cell or "nan") for cell in cells])
            state, probabilities = predictor.step(state, values)
        except ValueError as error:
            raise UserError(f"standard input, line {number}: {error}") from error
        time += 1
        yield {"step": time} | _to_json(predictor, probabilities)


def _to_json(predictor: Predictor, probabilities: np.ndarray) -> dict[str, Any]:
    classes = dict(zip(predictor.task.classes, probabilities.tolist(), strict=True))
    best = max(classes, key=lambda name: classes[name])
    return {"label": best, "probability": classes[best], "probabilities": classes}
