"""How plots of fixed data look: their size, and how dark each quarter is."""

import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from PIL import Image
from support import make_metrics

from rnnmnist.reporting import plots
from rnnmnist.reporting.calibration import Bins

STEPS = range(10, 110, 10)
RUN = [
    make_metrics(step, split, 100, [step - 9, 70], [9 / step, 8 / step])
    for step in STEPS
    for split in ("train", "validation")
]
COUNTS = np.array([[50, 3, 0], [12, 30, 1], [0, 0, 44]])
NAMES = ("one", "two", "a name of more than twenty-four letters")
ENDS = np.array([[0.4, 0.5, 0.85, 0.9], [0.5, 0.7, 0.9, 1], [0.6, 0.8, 0.95, 1]])
COUNTED, MEANS = np.array([[0, 9, 30, 1, 0, 200], [0, 0.3, 0.4, 0.6, 0, 0.9]])
BINS = Bins(COUNTED, COUNTED * (MEANS + 0.123), COUNTED * MEANS)
WAVE = np.sin(np.linspace(0, 6, 40))[:, None] * [1, 0.5]
INK, FALLS = np.eye(28) * 255, np.linspace(-1, 1, 28)
PLOTS: dict[str, Callable[[], bytes]] = {
    "curves": lambda: plots.learning_curves(RUN),
    "confusion": lambda: plots.confusion_matrix(COUNTS, NAMES),
    "20 classes": lambda: plots.confusion_matrix(np.eye(20, dtype=int), ["a"] * 20),
    "21 classes": lambda: plots.confusion_matrix(np.eye(21, dtype=int), ["a"] * 21),
    "reliability": lambda: plots.reliability_diagram(BINS, ENDS),
    "images": lambda: plots.gallery(
        [plots.Tile("7", INK, np.tile(FALLS[:, None], 28), "1", "80.00 %", "7")] * 5
    ),
    "sequences": lambda: plots.gallery(
        [plots.Tile("7", WAVE, WAVE[:, 0], "a longer name", "80.00 %", "7")] * 3,
        ["x", "y"],
    ),
    "steps": lambda: plots.accuracy_over_time(ENDS, 0.25),
}
LOOKS = {
    "curves": ((960, 920), [6.57, 6.6, 24.19, 12.28]),
    "confusion": ((960, 980), [15.19, 39.14, 1.64, 5.58]),
    "20 classes": ((960, 980), [7.51, 4.68, 5.03, 7.62]),
    "21 classes": ((960, 980), [7.43, 5.0, 5.19, 7.54]),
    "reliability": ((960, 960), [7.11, 3.06, 23.57, 27.7]),
    "images": ((960, 708), [73.7, 73.7, 36.85, 0.0]),
    "sequences": ((960, 540), [7.94, 5.04, 16.44, 8.8]),
    "steps": ((960, 680), [15.91, 10.2, 5.76, 4.27]),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_looks_as_before(name: str) -> None:
    with Image.open(io.BytesIO(PLOTS[name]())) as image:
        dark = 255 - np.asarray(image.convert("L"), float)
    rows, columns = (np.array_split(range(side), 2) for side in dark.shape)
    found = [dark[np.ix_(row, column)].mean() for row in rows for column in columns]
    size, quarters = LOOKS[name]
    np.testing.assert_allclose(image.size, size, atol=1)
    # Other versions round sizes and the places of texts differently.
    atol = 0.05 if matplotlib.__version__.startswith("3.11.") else 0.5
    np.testing.assert_allclose(found, quarters, atol=atol)


@pytest.mark.parametrize(
    "metrics",
    [
        [("train", np.nan, 5)],
        [("train", 2.3, 5), ("validation", 0.0, 50)],
        [("validation", np.inf, 5)],
    ],
    ids=["not a number", "nothing wrong", "only infinite"],
)
def test_curves_of_any_metrics_are_drawn(
    metrics: list[tuple[str, float, int]],
) -> None:
    lines = [
        make_metrics(1, split, 50, [correct], [loss])
        for split, loss, correct in metrics
    ]
    with Image.open(io.BytesIO(plots.learning_curves(lines))) as image:
        assert image.size == LOOKS["curves"][0]
