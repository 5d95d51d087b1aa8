"""Predictions for the sequences of files, and for steps that arrive as text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.data import files
from rnnmnist.data.sequences import check_features
from rnnmnist.errors import UserError
from rnnmnist.inference.predictor import Predictor


def predict_file(predictor: Predictor, path: Path) -> Iterator[dict[str, Any]]:
    """Yields the prediction for each sequence of a file, as a JSON object."""
    sequences = files.read(path, labelled=False, pair=False)
    check_features(path, sequences, predictor.task)
    try:
        found = predictor.classify(sequences.inputs, sequences.lengths)
    except ValueError as error:  # of a value
        raise UserError(f"{path}: {error}") from error
    for index, probabilities in enumerate(found):
        yield {"sequence": index} | _to_json(predictor, probabilities)


def predict_lines(
    predictor: Predictor, lines: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yields the prediction after each step, as a JSON object.

    Args:
        predictor: a network.
        lines: the features of a step each, separated by commas; an empty cell is a
            missing value. An empty line starts the next sequence.
    """
    state, step = predictor.start(), 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            state, step = predictor.start(), 0
            continue
        try:
            cells = [cell.strip() for cell in line.split(",")]
            values = np.array([float(cell or "nan") for cell in cells])
            state, probabilities = predictor.step(state, values)
        except ValueError as error:
            raise UserError(f"standard input, line {number}: {error}") from error
        step += 1
        yield {"step": step} | _to_json(predictor, probabilities)


def _to_json(predictor: Predictor, probabilities: np.ndarray) -> dict[str, Any]:
    classes = dict(zip(predictor.task.classes, probabilities.tolist(), strict=True))
    best = max(classes, key=lambda name: classes[name])
    return {"label": best, "probability": classes[best], "probabilities": classes}
