"""From numbers to pictures: the only room that knows matplotlib.

Every picture is a PNG, 4.8 inches wide at 200 dots an inch, so that its words can
be read on a phone, and is drawn for a palette. Never pyplot, which would choose a
backend for the whole process and keep figures.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rnnmnist.evaluation.formatting import percent
from rnnmnist.inference.preprocessing import Stages
from rnnmnist.reporting.palette import LIGHT, Palette

WIDTH, DPI = 4.8, 200  # inches, dots an inch
COLUMNS = 4  # of a gallery
SPLITS = {"train": 1, "validation": 0}  # each split's colour of the palette's series
LONGEST_NAME = 60  # of a run, in letters, beside a picture
MARKERS = "osD^vP"

Lines = Sequence[Mapping[str, Any]]  # of `metrics.jsonl`


class Band(NamedTuple):
    """A number with the ends of an interval around it, each from 0 to 1."""

    low: float
    middle: float
    high: float


class Tile(NamedTuple):
    """An image of a gallery, and the words under it."""

    image: np.ndarray  # uint8 [rows, columns]
    said: str
    probability: str
    true: str


def curves(metrics: Lines, palette: Palette = LIGHT) -> bytes:
    """Draws loss and accuracy, of training and of validation, over the steps.

    Where the lines have `members`, bands reach from the lowest to the highest.

    Args:
        metrics: the lines of `metrics.jsonl`, at least one.
        palette: to draw it in.
    """
    with _styled(palette):
        figure = _figure(4.6)
        above, below = figure.subplots(2, sharex=True)
        for split in SPLITS:
            _curve(above, metrics, split, "loss", palette)
            _curve(below, metrics, split, "accuracy", palette)
        above.set_yscale("log")
        low, high = above.get_ylim()
        above.yaxis.set_major_formatter("{x:g}")
        above.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")
        above.set_ylabel("loss (nats per image)")
        above.legend()
        below.set_ylabel("accuracy (% of images)")
        _steps_below(below)
        floor = _floor(metrics)
        below.set_ylim(floor, 100 + (100 - floor) / 40)  # room for a line at 100 %
        above.set_title(_headline(metrics), loc="left")
        return _png(figure)


def validation_curves(runs: Mapping[str, Lines], palette: Palette = LIGHT) -> bytes:
    """Draws the validation accuracy of several runs over the steps.

    Args:
        runs: the validation lines of `metrics.jsonl` of each, by its name.
        palette: to draw it in.
    """
    with _styled(palette):
        figure = _figure(3.4 + 0.17 * len(runs))
        axes = figure.subplots()
        for number, lines in enumerate(runs.values()):
            colour = palette.series[number % len(palette.series)]
            axes.plot(
                [line["step"] for line in lines],
                [100 * line["accuracy"] for line in lines],
                color=colour,
                linestyle=("-", "--", ":", "-.")[number // len(palette.series) % 4],
                marker=MARKERS[number % len(MARKERS)],
            )
            _spread(axes, lines, "accuracy", 100, colour)
        floor = min(map(_floor, runs.values()))
        axes.set_ylim(floor, 100 + (100 - floor) / 40)
        axes.set_ylabel("validation accuracy (% of images)")
        _steps_below(axes)
        # Named here, since matplotlib leaves out what begins with an underscore.
        figure.legend(axes.lines, list(map(_plain, runs)), loc="outside upper left")
        return _png(figure)


def _plain(name: str) -> str:
    """A name as it is, and not as mathematics; of a long one, the end."""
    if len(name) > LONGEST_NAME:
        name = f"…{name[-LONGEST_NAME:]}"
    return name.replace("\\", "\\\\").replace("$", r"\$")


def confusion(
    counts: Sequence[Sequence[int]], names: Sequence[str], palette: Palette = LIGHT
) -> bytes:
    """Draws how often each class was taken for each.

    Args:
        counts: true class by answer.
        names: of the classes.
        palette: to draw it in.
    """
    table = np.array(counts)
    mistakes = np.where(np.eye(len(table), dtype=bool), 0, table)
    shades = LinearSegmentedColormap.from_list(
        "shades", [palette.paper, palette.series[1]]
    )
    # The root of the counts: one image must be seen, a hundred not drown the rest.
    norm = PowerNorm(0.5, vmin=0, vmax=max(8, int(mistakes.max())))
    with _styled(palette):
        figure = _figure(4.9)
        axes = figure.subplots()
        axes.imshow(mistakes, cmap=shades, norm=norm)
        for true, said in np.ndindex(*table.shape):
            if true == said:
                corner = (said - 0.5, true - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, color=palette.line))
            elif not table[true, said]:
                continue
            dark = norm(mistakes[true, said]) > 0.75
            axes.text(
                said,
                true,
                f"{table[true, said]:,}",
                ha="center",
                va="center_baseline",
                fontsize=8.5 if table.max() < 10_000 else 7,
                color=palette.paper if dark else palette.ink,
            )
        _name_cells(axes, names)
        return _png(figure)


def per_class(
    bands: Sequence[Band],
    notes: Sequence[str],
    names: Sequence[str],
    overall: float,
    palette: Palette = LIGHT,
) -> bytes:
    """Draws the accuracy on each class, with its interval.

    Args:
        bands: of each class.
        notes: words at the right of each, its counts.
        names: of the classes.
        overall: the accuracy on all, from 0 to 1.
        palette: to draw it in.
    """
    low, middle, high = 100 * np.array(bands).T
    places = np.arange(len(names))
    with _styled(palette):
        figure = _figure(3.6)
        axes = figure.subplots()
        axes.axvline(100 * overall, color=palette.muted, linewidth=1, zorder=1)
        axes.errorbar(
            middle,
            places,
            xerr=_whiskers(low, middle, high),
            fmt="o",
            color=palette.series[0],
            capsize=2.5,
        )
        for place, note in zip(places, notes, strict=True):
            axes.annotate(
                note,
                (1, float(place)),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=palette.muted,
            )
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel("accuracy (% of the class's images)")
        axes.set_title(f"line: all classes, {percent(overall)}", loc="left")
        return _png(figure)


def reliability(
    confidence: Sequence[float],
    accuracy: Sequence[Band],
    images: Sequence[int],
    error: float,
    palette: Palette = LIGHT,
) -> bytes:
    """Draws how often answers are right, over how sure the network was of them.

    Args:
        confidence: mean of each bin that holds an image, from 0 to 1.
        accuracy: of these bins.
        images: in all bins, which divide 0 to 1 evenly.
        error: expected calibration error, from 0 to 1.
        palette: to draw it in.
    """
    low, middle, high = 100 * np.array(accuracy).T
    edges = np.linspace(0, 100, len(images) + 1)
    with _styled(palette):
        figure = _figure(4.8)
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        above.plot([0, 100], [0, 100], color=palette.muted, linewidth=1, zorder=1)
        above.errorbar(
            100 * np.array(confidence),
            middle,
            yerr=_whiskers(low, middle, high),
            fmt="o",
            color=palette.series[0],
            capsize=2.5,
            clip_on=False,
            zorder=3,
        )
        above.set_ylim(-3, 103)
        above.set_ylabel("right (% of the bin's images)")
        above.set_title(
            f"expected calibration error: {100 * error:.2f} points", loc="left"
        )
        below.bar(
            edges[:-1],
            images,
            np.diff(edges),
            align="edge",
            color=palette.series[0],
            edgecolor=palette.paper,
            linewidth=0.5,
        )
        below.set_yscale("log")
        below.set_ylim(0.5, 2 * max(images))  # a single image is seen, too
        below.yaxis.set_major_formatter("{x:,.0f}")
        below.minorticks_off()
        below.set_ylabel("images")
        below.set_xlim(0, 100)
        below.set_xlabel("probability that the network gave its answer (%)")
        figure.align_ylabels()
        return _png(figure)


def gallery(tiles: Sequence[Tile], palette: Palette = LIGHT) -> bytes:
    """Draws images with what was said of them, row after row."""
    rows = -(-len(tiles) // COLUMNS)
    paper_to_ink = LinearSegmentedColormap.from_list(
        "ink", [palette.paper, palette.ink]
    )
    with _styled(palette):
        figure = _figure(1.72 * rows + 0.1)
        figure.set_layout_engine("constrained", h_pad=0.07)
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes in grid.flat[len(tiles) :]:
            axes.set_axis_off()
        for axes, tile in zip(grid.flat, tiles, strict=False):
            axes.imshow(tile.image, cmap=paper_to_ink, vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            said = f"said {tile.said}\n{tile.probability}"
            for offset, text, colour in (
                (-3, said, palette.series[1]),
                (-25.5, f"is {tile.true}", palette.series[0]),
            ):
                axes.annotate(
                    text,
                    (0, 0),
                    (0, offset),
                    xycoords="axes fraction",
                    textcoords="offset points",
                    va="top",
                    color=colour,
                )
        return _png(figure)


def rows_read(
    bands: Sequence[Band], guessing: float, palette: Palette = LIGHT
) -> bytes:
    """Draws the accuracy of the answers after each row.

    Args:
        bands: after one row, after two, and so on.
        guessing: the accuracy of always saying the commonest class, from 0 to 1.
        palette: to draw it in.
    """
    low, middle, high = 100 * np.array(bands).T
    rows = np.arange(1, len(bands) + 1)
    blue = palette.series[0]
    with _styled(palette):
        figure = _figure(3.4)
        axes = figure.subplots()
        axes.axhline(100 * guessing, color=palette.muted, linewidth=1, zorder=1)
        axes.annotate(
            f"guessing: {100 * guessing:.1f} %",
            (rows[-1], 100 * guessing),
            (0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            color=palette.muted,
        )
        axes.fill_between(rows, low, high, color=blue, alpha=0.25, linewidth=0)
        axes.plot(rows, middle, color=blue, marker="o", markersize=3)
        quarters = [int(rows[len(rows) * part // 4 - 1]) for part in (1, 2, 3, 4)]
        for row in quarters:
            axes.annotate(
                f"{middle[row - 1]:.1f} %",
                (row, middle[row - 1]),
                # Above to the left, where a curve that rises is not; at last below.
                (0, -13) if row == rows[-1] else (-2, 5),
                textcoords="offset points",
                ha="right",
                va="top" if row == rows[-1] else "bottom",
            )
        axes.set_xticks([1, *quarters])
        axes.set_xlim(0.5, rows[-1] + 0.5)
        axes.set_ylim(0, 102)
        axes.set_xlabel("rows read, from the top")
        axes.set_ylabel("right (% of images)")
        return _png(figure)


def reading(
    stages: Stages, probabilities: np.ndarray, palette: Palette = LIGHT
) -> bytes:
    """Draws a picture's way to the network, and what it believed after each row.

    Args:
        stages: of the picture.
        probabilities: float [rows, classes].
        palette: to draw it in.
    """
    rows = np.arange(1, len(probabilities) + 1)
    order = probabilities.max(axis=0).argsort()[::-1]
    seen = [int(digit) for digit in order if probabilities[:, digit].max() > 0.1]
    seen = seen[: len(palette.series)]
    with _styled(palette):
        figure = _figure(4.4)
        parts: Any = figure.subfigures(2, height_ratios=[1, 2])
        names = ("as it was read", "ink", "strokes", "28 x 28")
        places = parts[0].subplots(1, len(names))
        for axes, name, image in zip(places, names, stages, strict=True):
            top = 255 if image is stages.image else 1
            axes.imshow(_square(image), cmap="gray", vmin=0, vmax=top)
            axes.set_title(name)
            axes.axis("off")
        axes = parts[1].subplots()
        for digit, colour in zip(seen, palette.series, strict=False):
            axes.plot(rows, 100 * probabilities[:, digit], color=colour)
            highest = int(np.argmax(probabilities[:, digit]))
            axes.annotate(
                f"{digit}",
                (rows[highest], 100 * probabilities[highest, digit]),
                (0, 3),
                textcoords="offset points",
                ha="center",
                color=colour,
            )
        axes.set_xlim(0.5, rows[-1] + 0.5)
        axes.set_ylim(0, 110)
        axes.set_xlabel("rows read, from the top")
        axes.set_ylabel("believed (%)")
        return _png(figure)


def gradients(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    palette: Palette = LIGHT,
) -> bytes:
    """Draws how much of a gradient is left on its way back to the first row.

    Args:
        panels: by title, from above; each has lanes by name. The first word of a name
            is a cell, which has a colour; its first lane is a line with a band, what
            follows is dashed. A lane is low, middle and high, [3][rows], 1 after the
            last row.
        palette: to draw it in.
    """
    with _styled(palette):
        figure = _figure(0.4 + 2.5 * len(panels))
        grid = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)
        for axes, (title, lanes) in zip(grid.flat, panels.items(), strict=True):
            axes.set_yscale("log")
            axes.yaxis.tick_right()  # where the way begins; at its end are the names
            axes.spines["left"].set_visible(False)
            axes.spines["right"].set_visible(True)
            axes.yaxis.set_major_formatter("{x:g} %")
            axes.tick_params(axis="y", which="minor", length=0)
            axes.set_title(title, loc="left", color=palette.muted)
            _lanes(axes, lanes, palette)
        rows = len(next(iter(lanes.values()))[0])
        axes.set_xlim(1, rows + 0.3)
        axes.set_xticks([rows * part // 4 or 1 for part in range(5)])
        axes.set_xlabel("after row  (the gradient comes from the right)")
        axes.set_ylim(top=300)
        figure.suptitle(
            "Norm of the gradient of one image's loss with respect to the state\n"
            f"after each row, in % of that after row {rows}",
            x=0.01,
            ha="left",
            fontsize=9,
        )
        return _png(figure)


@contextlib.contextmanager
def _styled(palette: Palette) -> Iterator[None]:
    """Draws in a palette, whatever a user's own matplotlibrc says."""
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": palette.ink,
        "axes.titlesize": 9,
        "axes.labelcolor": palette.ink,
        "axes.edgecolor": palette.muted,
        "axes.facecolor": palette.paper,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": palette.line,
        "grid.linewidth": 0.7,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "lines.linewidth": 1.5,
        "lines.markersize": 4,
        "legend.frameon": False,
        "figure.facecolor": palette.paper,
        "savefig.facecolor": "auto",
    }
    with matplotlib.rc_context(style):
        yield


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _square(image: np.ndarray) -> np.ndarray:
    """An image with as much of its corner's level around it as makes it a square."""
    free = np.max(image.shape) - np.array(image.shape)
    return np.pad(
        image,
        [(side // 2, side - side // 2) for side in free],
        constant_values=image[0, 0],
    )


def _whiskers(low: np.ndarray, middle: np.ndarray, high: np.ndarray) -> np.ndarray:
    # An end at 0 or 1 can lie on the wrong side of the middle by rounding.
    return np.maximum(0, [middle - low, high - middle])


def _lanes(
    axes: Axes, lanes: Mapping[str, Sequence[Sequence[float]]], palette: Palette
) -> None:
    """Lines and bands, each line's name and last value at its end on the left."""
    cells = list(dict.fromkeys(name.split()[0] for name in lanes))
    drawn: set[str] = set()
    ends = {}
    for name, lane in lanes.items():
        low, middle, high = 100 * np.array(lane)
        rows = np.arange(1, len(middle) + 1)
        cell = name.split()[0]
        colour = palette.series[cells.index(cell) % len(palette.series)]
        first = cell not in drawn
        axes.plot(rows, middle, "-" if first else "--", color=colour)
        if first:
            axes.fill_between(rows, low, high, color=colour, alpha=0.18, linewidth=0)
        drawn.add(cell)
        ends[name] = (float(middle[0]), colour)
    place = np.inf
    for name, (end, colour) in sorted(ends.items(), key=lambda item: -item[1][0]):
        place = min(np.log10(end), place - 0.29)  # decades: no word on another
        axes.annotate(
            f"{name}  {end:.2g} %",
            (1, 10**place),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            annotation_clip=False,
        )


def _curve(axes: Axes, metrics: Lines, split: str, key: str, palette: Palette) -> None:
    lines = [line for line in metrics if line["split"] == split]
    scale = 100 if key == "accuracy" else 1
    colour = palette.series[SPLITS[split]]
    axes.plot(
        [line["step"] for line in lines],
        [scale * line[key] for line in lines],
        color=colour,
        marker="o" if split == "validation" else "",
        label=split,
        zorder=3 if split == "validation" else 2,
    )
    _spread(axes, lines, key, scale, colour)


def _spread(axes: Axes, lines: Lines, key: str, scale: float, colour: str) -> None:
    """A band from the lowest to the highest member of a stack of seeds."""
    stacked = [line for line in lines if line.get("members")]
    if not stacked:
        return
    values = [[scale * member[key] for member in line["members"]] for line in stacked]
    axes.fill_between(
        [line["step"] for line in stacked],
        [min(own) for own in values],
        [max(own) for own in values],
        color=colour,
        alpha=0.25,
        linewidth=0,
    )


def _steps_below(axes: Axes) -> None:
    axes.set_xlabel("step (updates)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _name_cells(axes: Axes, names: Sequence[str]) -> None:
    """Names the cells of a square table, and rules lines between them."""
    places, between = range(len(names)), np.arange(len(names) + 1) - 0.5
    axes.set_xticks(places, names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(places, names)
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(False)
    axes.grid(which="minor", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("said")
    axes.set_ylabel("true")


def _floor(metrics: Lines) -> float:
    """Where the axis of accuracy begins, in %: a little below the lowest validation.

    The last few % tell runs apart, so training's first steps may lie outside.
    """
    validated = [line for line in metrics if line["split"] == "validation"]
    lowest = 100 * min(line["accuracy"] for line in validated or metrics)
    return max(0.0, lowest - (100 - lowest) / 2 - 0.1)  # 0.1: where it is 100 %


def _headline(metrics: Lines) -> str:
    validated = [line for line in metrics if line["split"] == "validation"]
    last = f"step {metrics[-1]['step']:,}"
    if not validated:
        return last
    best = max(validated, key=lambda line: (line["accuracy"], -line["step"]))
    return (
        f"{last}   best on validation: {percent(best['accuracy'])} "
        f"at step {best['step']:,}"
    )
