"""Draws how the gradient vanishes, for `gradients.py` and `vanishing.py`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from rnnmnist.config.schema import CELLS
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import LIGHT


def gradients(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    title: str,
    label: str,
    floor: float = 0.0,
) -> bytes:
    """Draws how the gradient vanishes on its way back to the first time step.

    Args:
        panels: curves by name, by the panel's title. Each curve is [3][time]: low,
            middle and high, relative to the last one. The first word of its name is
            a cell, which has its own colour; other words share one. The first curve
            of a word is solid and has a band; the others are dashed.
        title: of the figure.
        label: of the time axis.
        floor: the lowest value that is drawn, above 0 if a curve reaches 0.
    """
    curves = [curve for own in panels.values() for curve in own.values()]
    values = 100 * np.maximum(curves, floor)
    top = max(300, 1.5 * values.max())
    apart = 0.09 * np.log10(top / values.min())  # decades between names
    with plots.new_figure(0.4 + 2.5 * len(panels)) as figure:
        grid = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)
        for axes, (name, own) in zip(grid.flat, panels.items(), strict=True):
            axes.set_yscale("log")
            axes.yaxis.tick_right()  # the names of the curves are on the left
            axes.spines["left"].set_visible(False)
            axes.spines["right"].set_visible(True)
            axes.yaxis.set_major_formatter("{x:g} %")
            axes.minorticks_off()
            axes.set_title(name, color=LIGHT.muted)
            _plot_gradients(axes, own, apart, floor)
        rows = values.shape[-1]
        axes.set_xticks([rows * quarter // 4 or 1 for quarter in range(5)])
        axes.set_xlabel(label)
        axes.set_xlim(1, rows + 0.3)
        axes.set_ylim(top=top)
        figure.suptitle(title, x=0.01, ha="left", fontsize=9)
        return plots.to_png(figure)


def _plot_gradients(
    axes: Axes,
    curves: Mapping[str, Sequence[Sequence[float]]],
    apart: float,
    floor: float,
) -> None:
    """Plots curves and bands, with name and value at the left end of each curve.

    The names are at least `apart` decades from each other.
    """
    colours = dict(zip(CELLS, LIGHT.series, strict=False))
    drawn: set[str] = set()
    ends: list[tuple[float, str, str]] = []
    for name, curve in curves.items():
        low, middle, high = 100 * np.maximum(curve, floor)
        rows = np.arange(1, len(middle) + 1)
        cell = name.split()[0]
        first = cell not in drawn
        drawn.add(cell)
        colour = colours.get(cell, LIGHT.series[-1])
        axes.plot(rows, middle, "-" if first else "--", color=colour)
        if first:
            axes.fill_between(rows, low, high, color=colour, alpha=0.18, linewidth=0)
        ends.append((float(middle[0]), name, colour))
    height = np.inf  # in decades
    for end, name, colour in sorted(ends, reverse=True):
        height = min(np.log10(end), height - apart)
        below = "< " if end == 100 * floor else ""
        axes.annotate(
            f"{name}  {below}{end:.3g} %",
            (1, 10**height),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            annotation_clip=False,
        )
