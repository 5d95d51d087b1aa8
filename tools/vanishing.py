"""Measures the vanishing gradient by the length of the sequence, and its cost.

    python tools/vanishing.py --data=FOLDER

Trains every recurrence on pixels of MNIST in row order, 28 to 1 at a time, with one
recipe; the head reads the last state. For images of validation, it then differentiates
the loss of each image with respect to the pixels of each window, before and after
training. It writes results/vanishing.json; `render_pages.py` shows it as a table and as
docs/vanishing.png. FOLDER contains `mnist/` with the four original files. Runs stay in
`checkpoints/results`; an interrupted measurement resumes them.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import page_tables
import result_tables
from matplotlib.axes import Axes

import results
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import GATED_CELLS, LINEAR_CELLS
from rnnmnist.data import datasets
from rnnmnist.data.image_sets import image_task
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import LIGHT
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.state import Program, create_state

TIME_STEPS = (28, 56, 112, 196, 392, 784)
SHORT = 112  # up to this length, three seeds are trained
RECIPE = (
    "default data.view=pixels train.learning_rate=4e-3 train.weight_decay=0 "
    "train.num_steps=1290"
)
RECURRENCES = {
    "rnn": "model.cell=rnn",
    "gru": "model.cell=gru",
    "lstm": "model.cell=lstm",
    "lstm, chrono": "model.cell=lstm model.initializer=chrono",
    "lru": "model.cell=lru model.hidden_size=64 model.num_layers=3",
}
EXAMPLES = 500  # the first images of the validation split
PARTS = 28  # of a sequence, over whose time the norm is averaged
QUANTILES = (0.1, 0.5, 0.9)
FLOOR = 1e-8  # the lowest value in the plot


def case(recurrence: str, time_steps: int) -> results.Row:
    """Returns the runs of a recurrence that reads a number of windows."""
    name = f"vanishing_{recurrence.replace(', ', '_')}_{time_steps}"
    size = 784 // time_steps
    windows = f"model.window={size} model.stride={size}"
    settings = f"{RECIPE} {windows} {RECURRENCES[recurrence]}"
    return results.Row(name, 3 if time_steps <= SHORT else 1, settings, recurrence)


CASES = [case(name, time_steps) for time_steps in TIME_STEPS for name in RECURRENCES]


def input_gradients(
    model: SequenceClassifier, params: Params, inputs: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Differentiates each sequence's loss with respect to the inputs of each window.

    The parameters are those of one network, the inputs float32 [sequences, windows,
    values]. Returns the norms over values, [sequences, windows].
    """

    def total_loss(params: Params, inputs: jax.Array) -> jax.Array:
        sequences = inputs.reshape(-1, *model.input_shape)
        logits: Any = model.apply({"params": params}, sequences)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # A sequence affects its own loss only, so the sum separates the gradients.
        return losses.sum()

    found = jax.jit(jax.grad(total_loss, argnums=1))(params, inputs)
    return np.linalg.norm(np.asarray(found, np.float64), axis=-1)


def relative_quantiles(norms: np.ndarray) -> list[list[float]]:
    """Returns quantiles over sequences, relative to the last part, [quantiles][parts].

    The norms, [sequences, windows], are averaged over each part.
    """
    means = norms.reshape(len(norms), PARTS, -1).mean(axis=2)
    table = np.quantile(means / means[:, -1:], QUANTILES, axis=0)
    return [[float(f"{value:.3g}") for value in row] for row in table]


def measure_gradients(workdir: Path) -> dict[str, Any]:
    """Measures the gradients of a run, before and after training."""
    network = TrainedNetwork(workdir, "best")
    config, model = network.config, network.model
    examples = datasets.load(config.data).splits["validation"]
    view = network.view
    inputs = np.asarray(view(jnp.asarray(examples.take(slice(EXAMPLES)))))
    windows = config.model.count_windows(network.task.time_steps)
    inputs = inputs.reshape(len(inputs), windows, -1)
    (trained,) = split_ensemble(network.params)
    program = Program.create(config, network.task, network.mesh, model.execution)
    state = create_state(config, program)
    (untrained,) = split_ensemble(state.evaluated_params)
    return {
        when: relative_quantiles(
            input_gradients(model, params, inputs, examples.labels[:EXAMPLES])
        )
        for when, params in (("before", untrained), ("after", trained))
    }


def measure(data: Path | None) -> dict[str, Any]:
    """Trains all cases, the short ones first; returns the content of the file."""
    runs = [summarize(*trained) for trained in results.train_all(CASES, data)]
    return {
        "name": "vanishing",
        "command": "python tools/vanishing.py --data=FOLDER",
        **results.origin(),
        "settings": RECIPE,
        "examples": EXAMPLES,
        "quantiles": list(QUANTILES),
        "runs": runs,
    }


def summarize(row: results.Row, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the results of a case, with the gradients of its first seed."""
    config = row.config()
    counts = ("correct", "validation_correct", "seconds")
    return {
        "recurrence": row.label,
        "steps": resolve(config, image_task(config.data)).model.count_windows(784),
        "settings": row.settings,
        "num_parameters": members[0]["num_parameters"],
        **{name: [member[name] for member in members] for name in counts},
        **measure_gradients(results.RUNS / f"{row.name}-0"),
    }


def accuracies() -> str:
    """Returns the table of test accuracies, with a column for each length."""
    measured = result_tables.read_result("vanishing")
    lines = []
    for name in RECURRENCES:
        runs = [run for run in measured["runs"] if run["recurrence"] == name]
        cells = []
        for run in runs:
            fractions = [correct / 10_000 for correct in run["correct"]]
            cells.append(result_tables.over_seeds(fractions, digits=2))
        lines.append([f"`{name}`", f"{runs[-1]['num_parameters']:,}", *cells])
    lengths = (f"{count} time steps" for count in TIME_STEPS)
    header = ("recurrence", "parameters", *lengths)
    return page_tables.table(header, lines) + result_tables.origin([measured])


def plot() -> bytes:
    """Plots the gradients of the shortest and the longest sequences, as a PNG."""
    panels = {
        f"{count} time steps, {when} training": {
            run["recurrence"]: run[when]
            for run in result_tables.read_result("vanishing")["runs"]
            if run["steps"] == count
        }
        for count in (TIME_STEPS[0], TIME_STEPS[-1])
        for when in ("before", "after")
    }
    curves = [curve for own in panels.values() for curve in own.values()]
    values = 100 * np.maximum(curves, FLOOR)
    top = max(300, 1.5 * values.max())
    apart = 0.09 * np.log10(top / values.min())  # decades between names
    with plots.new_figure(0.4 + 2.5 * len(panels)) as figure:
        grid = figure.subplots(len(panels), sharex=True, sharey=True)
        for axes, (name, own) in zip(grid, panels.items(), strict=True):
            axes.set_yscale("log")
            axes.yaxis.tick_right()  # the names of the curves are on the left
            axes.spines["left"].set_visible(False)
            axes.spines["right"].set_visible(True)
            axes.yaxis.set_major_formatter("{x:g} %")
            axes.minorticks_off()
            axes.set_title(name, color=LIGHT.muted)
            plot_curves(axes, own, apart)
        axes.set_xticks([PARTS * quarter // 4 or 1 for quarter in range(5)])
        axes.set_xlabel("part of the sequence; backpropagation goes from right to left")
        axes.set_xlim(1, PARTS + 0.3)
        axes.set_ylim(top=top)
        figure.suptitle(
            "Norm of the gradient of one image's loss with respect to a time step's\n"
            "inputs, in % of that in the last part of the sequence",
            x=0.01,
            ha="left",
            fontsize=9,
        )
        return plots.to_png(figure)


def plot_curves(
    axes: Axes, curves: Mapping[str, Sequence[Sequence[float]]], apart: float
) -> None:
    """Plots curves, each [3][parts], with name and value at the left end of each.

    The names are at least `apart` decades from each other.
    """
    names = *GATED_CELLS, *LINEAR_CELLS, "lstm, chrono"
    styles = dict(zip(names, itertools.product("-:", LIGHT.series), strict=False))
    parts = np.arange(1, PARTS + 1)
    ends = []
    for name, curve in curves.items():
        low, middle, high = 100 * np.maximum(curve, FLOOR)
        line, colour = styles[name]
        axes.plot(parts, middle, line, color=colour)
        axes.fill_between(parts, low, high, color=colour, alpha=0.18, linewidth=0)
        ends.append((float(middle[0]), name))
    height = np.inf  # in decades
    for end, name in sorted(ends, reverse=True):
        height = min(np.log10(end), height - apart)
        below = "< " if end == 100 * FLOOR else ""
        axes.annotate(
            f"{name}  {below}{end:.3g} %",
            (1, 10**height),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=styles[name][1],
            annotation_clip=False,
        )


def main() -> None:
    """Parses the command line, measures and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=lambda text: Path(text).absolute())
    text = json.dumps(measure(parser.parse_args().data), indent=1, allow_nan=False)
    (results.RESULTS / "vanishing.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
