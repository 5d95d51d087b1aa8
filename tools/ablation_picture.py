"""Draws docs/ablation.png: the test error of each recipe from the 2016 one to `best`.

    python tools/ablation_picture.py

The numbers are those of `results/`, which `tools/results.py measure` writes.
"""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import results

PICTURE = Path(__file__).resolve().parent.parent / "docs/ablation.png"


def draw() -> Figure:
    """Plots every seed, and the mean and standard deviation over seeds."""
    figure = Figure(figsize=(7.5, 5.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(results.ABLATION):
        members = results.read_result(row.name)["members"]
        errors = 100 * (1 - np.array([member["accuracy"] for member in members]))
        heights = place + np.linspace(0.15, 0.35, len(errors))
        axes.plot(errors, heights, "o", color="tab:orange", markersize=3)
        axes.errorbar(
            errors.mean(),
            place,
            xerr=errors.std(ddof=1),
            fmt="s",
            color="tab:blue",
            markersize=4,
            capsize=3,
        )
    labels = [textwrap.fill(row.label.replace("`", ""), 36) for row in results.ABLATION]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([0.4, 0.6, 1, 2, 3])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("test error, % of 10,000 images, logarithmic")
    axes.grid(axis="x", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE)
