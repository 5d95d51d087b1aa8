"""Plots of the report."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support import make_metrics

from rnnmnist.reporting import plots

STEPS = range(10, 110, 10)
RUN = [
    make_metrics(step, split, 100, [step - 9, 70], [9 / step, 8 / step])
    for step in STEPS
    for split in ("train", "validation")
]
COUNTS = np.array([[50, 3, 0], [12, 30, 1], [0, 0, 44]])
NAMES = ("one", "two", "a name of more than twenty-four letters")
OVER_TIME = np.array([0.5, 0.7, 0.9, 1])
WAVE = np.sin(np.linspace(0, 6, 40))[:, None] * [1, 0.5]
INK = np.eye(28) * 255
PLOTS: dict[str, Callable[[], bytes]] = {
    "curves": lambda: plots.plot_learning_curves(RUN),
    "infinite losses": lambda: plots.plot_learning_curves(
        [make_metrics(1, "validation", 50, [50], [np.inf])]
    ),
    "confusion": lambda: plots.plot_confusion_matrix(COUNTS, NAMES),
    "many classes": lambda: plots.plot_confusion_matrix(
        np.eye(21, dtype=int), ["a"] * 21
    ),
    "images": lambda: plots.plot_misclassified(
        [plots.Tile("7", INK, "1", "80.00 %", "7")] * 5
    ),
    "sequences": lambda: plots.plot_misclassified(
        [plots.Tile("7", WAVE, "a longer name", "80.00 %", "7")] * 3,
        ["x", "y"],
    ),
    "time steps": lambda: plots.plot_accuracy_over_time(OVER_TIME, 0.25),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_drawn_to_its_edges(name: str) -> None:
    with Image.open(io.BytesIO(PLOTS[name]())) as image:
        dark = 255 - np.asarray(image.convert("L"), float)
    assert image.width == 960
    halves = [half for axis in (0, 1) for half in np.array_split(dark, 2, axis)]
    assert min(half.mean() for half in halves) > 1


def test_plots_shorten_names_and_escape_mathtext(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [r"cost $\foo$", "_base", 200 * "n"]
    texts: list[str] = []

    def to_png(figure: Figure) -> bytes:
        figure.draw_without_rendering()
        drawn = (text.get_text() for text in figure.findobj(Text))
        texts[:] = "\n".join(drawn).splitlines()
        return b""

    monkeypatch.setattr(plots, "to_png", to_png)
    plots.plot_confusion_matrix(np.eye(3, dtype=int), names)
    assert {*names[:2]} <= {*texts}
    assert {len(text) for text in texts if "n…n" in text} == {24}
