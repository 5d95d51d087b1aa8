"""Draws plots as PNG files with matplotlib.

Every plot is 4.8 inches wide at 200 dots per inch, so that its text is legible on a
phone. This module does not use pyplot, which selects a backend for the whole process
and keeps references to figures.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib.style  # noqa: TID251
import numpy as np
from matplotlib.axes import Axes  # noqa: TID251
from matplotlib.colors import LinearSegmentedColormap, PowerNorm  # noqa: TID251
from matplotlib.figure import Figure  # noqa: TID251
from matplotlib.ticker import MaxNLocator  # noqa: TID251

from rnnmnist.runs.logs import StepMetrics

DPI = 200  # dots per inch
# The colours of the light scheme in `base.css`.
BACKGROUND = "#ffffff"
FOREGROUND = "#1b1f24"
MUTED = "#57606a"
LINE = "#d8dde3"
BLUE = "#0072b2"
ORANGE = "#c4501b"
GREEN = "#007a5a"
PURPLE = "#a03d85"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#8a6100", FOREGROUND)
ERROR_CMAP = LinearSegmentedColormap.from_list("errors", (BACKGROUND, ORANGE))
IMAGE_CMAP = LinearSegmentedColormap.from_list("image", (BACKGROUND, FOREGROUND))
MAX_ANNOTATED = 20  # confusion matrices with more classes do not show counts


class Tile(NamedTuple):
    """A misclassified example to draw, with its caption."""

    name: str  # the identifier of the sequence
    values: np.ndarray  # image, uint8 [rows, columns], or float [time, features]
    predicted: str
    probability: str
    label: str


def plot_learning_curves(metrics: Sequence[StepMetrics]) -> bytes:
    """Draws the losses and accuracies of a run against the step.

    Curves show means over the ensemble.

    Args:
        metrics: the lines of the log, at least one.
    """
    with new_figure(4.6) as figure:
        upper_axes, lower_axes = figure.subplots(2, sharex=True)
        for split, colour, marker in (
            ("train", ORANGE, ""),
            ("validation", BLUE, "o"),
        ):
            lines = [line for line in metrics if line.split == split]
            if not lines:
                continue
            steps = [line.step for line in lines]
            losses = [line.loss for line in lines]
            accuracies = [100 * line.accuracy for line in lines]
            for axes, values in ((upper_axes, losses), (lower_axes, accuracies)):
                axes.plot(steps, values, color=colour, marker=marker, label=split)
        upper_axes.set(ylabel="loss (nats per example)", yscale="log")
        lowest, highest = upper_axes.get_ylim()
        upper_axes.yaxis.set_major_formatter("{x:g}")
        upper_axes.yaxis.set_minor_formatter("{x:g}" if highest < 10 * lowest else "")
        upper_axes.legend()
        # Near the end of a run, accuracies differ by a few percent, so the y axis can
        # cut off early steps of the training curve.
        validation_lines = [line for line in metrics if line.split == "validation"]
        train_lines = [line for line in metrics if line.split == "train"]
        shown_lines = validation_lines + train_lines[-1:]
        min_accuracy = 100 * min(line.accuracy for line in shown_lines)
        bottom = min(99.0, max(0.0, min_accuracy - (100 - min_accuracy) / 2))
        top = 100 + (100 - bottom) / 40  # so that a line at 100 % is visible
        lower_axes.set(ylabel="accuracy (% of examples)", ylim=(bottom, top))
        lower_axes.set_xlabel("step (updates)")
        lower_axes.set_xlim(left=0)
        integers = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10])
        lower_axes.xaxis.set_major_locator(integers)
        lower_axes.xaxis.set_major_formatter("{x:,.0f}")
        return to_png(figure)


def plot_confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """Draws a confusion matrix.

    Args:
        counts: int [true classes, predicted classes].
        names: the names of the classes.
    """
    errors = np.ma.array(counts, mask=np.eye(len(counts), dtype=bool))
    cmap = ERROR_CMAP.with_extremes(bad=LINE)
    # On a square-root scale, a single error stays visible next to hundreds of errors.
    # The largest count is drawn at three quarters of full intensity, so that its text
    # is legible.
    norm = PowerNorm(0.5, vmin=0, vmax=max(8, int(errors.max())) / 0.75**2)
    classes = range(len(counts))
    names = [_shorten(name, 24) for name in names]
    with new_figure(4.6) as figure:
        axes = figure.subplots()
        axes.pcolormesh(
            classes,
            classes,
            errors,
            cmap=cmap,
            norm=norm,
            edgecolor=LINE,
            linewidth=0.5,
        )
        if len(counts) <= MAX_ANNOTATED:
            size = min(7.5, 95 / len(counts))
            for (true, predicted), count in np.ndenumerate(counts):
                if count or true == predicted:
                    axes.text(
                        predicted,
                        true,
                        f"{count:,}",
                        ha="center",
                        va="center_baseline",
                        fontsize=size,
                    )
        rotation = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(classes, names, rotation=rotation)
        axes.set_yticks(classes, names)
        axes.tick_params(length=0, labelsize=min(9, 220 / len(names)))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="true", aspect="equal")
        axes.invert_yaxis()
        return to_png(figure)


def plot_misclassified(
    tiles: Sequence[Tile], feature_names: Sequence[str] = ()
) -> bytes:
    """Draws misclassified examples in four columns.

    If there are feature names, examples are drawn as curves. Otherwise, they are drawn
    as images.
    """
    rows = math.ceil(len(tiles) / 4)
    # In inches. For sequences, there is a legend below the rows.
    height = 2.1 * rows + 0.4 if feature_names else 1.75 * rows + 0.1
    with new_figure(height) as figure:
        grid = figure.subplots(rows, 4, squeeze=False)
        for axes in grid.flat[len(tiles) :]:
            axes.set_axis_off()
        for axes, tile in zip(grid.flat, tiles, strict=False):
            label = f"label {_shorten(tile.label, 12)}"
            if feature_names:
                _draw_curves(axes, tile.values)
                label = f"{_shorten(tile.name, 16)}\n{label}"
            else:
                axes.imshow(tile.values, cmap=IMAGE_CMAP, vmin=0, vmax=255)
                axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            predicted = f"predicted {_shorten(tile.predicted, 12)}\n{tile.probability}"
            axes.set_title(label, color=BLUE, fontsize=7)
            axes.set_xlabel(predicted, color=ORANGE, fontsize=7, loc="left")
        if feature_names:
            labels = [_shorten(name, 20) for name in feature_names[: len(SERIES)]]
            lines = grid.flat[0].get_lines()[: len(labels)]
            figure.legend(lines, labels, loc="outside lower left", ncols=4)
        return to_png(figure)


def _draw_curves(axes: Axes, values: np.ndarray) -> None:
    """Draws a sequence, float [time, features]."""
    axes.set_prop_cycle(color=SERIES)
    marker = "o" if len(values) == 1 else ""
    axes.plot(range(1, len(values) + 1), values, linewidth=1, marker=marker)
    axes.tick_params(labelsize=6)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))


def plot_accuracy_over_time(accuracy: np.ndarray, majority: float) -> bytes:
    """Draws the accuracy after each time step, with a line for the majority class.

    Args:
        accuracy: fractions, [time].
        majority: the fraction of examples in the most frequent class.
    """
    time_steps = len(accuracy)
    with new_figure(3.4) as figure:
        axes = figure.subplots()
        axes.axhline(100 * majority, color=MUTED, linewidth=1, zorder=1)
        times = range(1, time_steps + 1)
        axes.plot(times, 100 * accuracy, color=BLUE, marker="o", markersize=3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="time steps read", xlim=(0.5, time_steps + 0.5))
        axes.set(ylabel="accuracy (% of examples)", ylim=(0, 102))
        return to_png(figure)


@contextlib.contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """Yields a figure with the colours of the pages.

    The figure does not depend on the user's matplotlibrc, and must be saved inside the
    `with` block.

    Args:
        height: in inches.
    """
    style: dict[Any, Any] = {  # as annotated by matplotlib
        "font.size": 9,
        "text.color": FOREGROUND,
        "text.parse_math": False,  # names may contain dollar signs
        "axes.titlelocation": "left",
        "axes.titlesize": 9,
        "axes.labelcolor": FOREGROUND,
        "axes.edgecolor": MUTED,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": FOREGROUND,
        "ytick.labelcolor": FOREGROUND,
        "lines.markersize": 4,
        "legend.frameon": False,
    }
    with matplotlib.style.context(["default", style]):
        yield Figure(figsize=(4.8, height), dpi=DPI, layout="constrained")


def to_png(figure: Figure) -> bytes:
    """Encodes a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


def _shorten(name: str, length: int) -> str:
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[-end:]}"
