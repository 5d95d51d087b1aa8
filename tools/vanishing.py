"""Measures how gradients vanish with the sequence length, and what this costs.

    python tools/vanishing.py --data=FOLDER

Trains every cell on MNIST pixels in row order, with the same recipe and windows of 28
to 1 pixels. The head reads the last state. For validation images, it then computes the
gradient of each image's loss with respect to the pixels of each window, before and
after training.

Writes results/vanishing.json, which `render_pages.py` shows as a table and as
docs/vanishing.png. FOLDER contains `mnist/` with the four original files. Finished runs
are kept in `checkpoints/results`, and are not repeated.
"""

import argparse
import itertools
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
from result_files import read_result, write_result

import results
from rnnmnist.config.resolving import resolve
from rnnmnist.data import datasets
from rnnmnist.data.image_datasets import image_task
from rnnmnist.evaluation.network import Network
from rnnmnist.models.classifier import SequenceClassifier
from rnnmnist.models.parameters import Params
from rnnmnist.reporting import plots
from rnnmnist.runs.records import Record
from rnnmnist.runtime.devices import make_single_device_mesh
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.state import Program, create_state

TIME_STEPS = (28, 56, 112, 196, 392, 784)
SHORT = 112  # up to this length, three seeds are trained
RECIPE = (
    "default data.view=pixels train.learning_rate=4e-3 train.weight_decay=0 "
    "train.num_steps=1290"
)
CELLS = {
    "rnn": "model.cell=rnn",
    "gru": "model.cell=gru",
    "lstm": "model.cell=lstm",
    "lstm, chrono": "model.cell=lstm model.initializer=chrono",
    "lru": "model.cell=lru model.hidden_size=64 model.num_layers=3",
}
NAMES = {  # in the plot
    "rnn": "basic cell",
    "lstm": "LSTM",
    "lstm, chrono": "LSTM, chrono",
    "gru": "GRU",
    "lru": "LRU, linear",
}
EXAMPLES = 500  # from the start of the validation split
PARTS = 28  # of a sequence; norms are averaged within each part
QUANTILES = (0.1, 0.5, 0.9)
FLOOR = 1e-8  # the lowest value in the plot


def case(cell: str, time_steps: int) -> results.Row:
    """Describes the runs of a cell that reads `time_steps` windows."""
    name = f"vanishing_{cell.replace(', ', '_')}_{time_steps}"
    size = 784 // time_steps
    windows = f"model.window={size} model.stride={size}"
    settings = f"{RECIPE} {windows} {CELLS[cell]}"
    return results.Row(name, 3 if time_steps <= SHORT else 1, settings, cell)


CASES = [case(name, time_steps) for time_steps in TIME_STEPS for name in CELLS]


def input_gradients(
    model: SequenceClassifier, params: Params, inputs: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Computes the gradient of each sequence's loss with respect to each window.

    Args:
        model: the network.
        params: the parameters of one member.
        inputs: float32 [sequences, windows, values].
        labels: int [sequences].

    Returns:
        The norms of the gradients over values, [sequences, windows].
    """

    def total_loss(params: Params, inputs: jax.Array) -> jax.Array:
        sequences = inputs.reshape(-1, *model.input_shape)
        logits: Any = model.apply({"params": params}, sequences)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # Each sequence affects only its own loss, so the sum keeps gradients separate.
        return losses.sum()

    gradients = jax.jit(jax.grad(total_loss, argnums=1))(params, inputs)
    return np.linalg.norm(np.asarray(gradients, np.float64), axis=-1)


def relative_quantiles(norms: np.ndarray) -> list[list[float]]:
    """Averages norms within each part, and returns quantiles over sequences.

    Args:
        norms: [sequences, windows].

    Returns:
        Quantiles of the ratio to the last part, [quantiles][parts].
    """
    means = norms.reshape(len(norms), PARTS, -1).mean(axis=2)
    table = np.quantile(means / means[:, -1:], QUANTILES, axis=0)
    return [[float(f"{value:.3g}") for value in row] for row in table]


def measure_gradients(workdir: Path) -> dict[str, Any]:
    """Measures the gradients of a run before and after training."""
    run = Network(Record(workdir), "best")
    network = run.on(make_single_device_mesh())
    config, model = run.config, network.model
    assert isinstance(model, SequenceClassifier)
    examples = datasets.load(config).splits["validation"]
    view = network.view
    inputs = np.asarray(view(jnp.asarray(examples.take(slice(EXAMPLES)))))
    windows = config.model.count_windows(run.task.time_steps)
    inputs = inputs.reshape(len(inputs), windows, -1)
    (trained,) = split_ensemble(network.params)
    program = Program.create(config, run.task, network.mesh, model.execution)
    state = create_state(config, program)
    (untrained,) = split_ensemble(state.evaluated_params)
    return {
        when: relative_quantiles(
            input_gradients(model, params, inputs, examples.labels[:EXAMPLES])
        )
        for when, params in (("before", untrained), ("after", trained))
    }


def measure(data: Path | None) -> dict[str, Any]:
    """Trains all cases, short sequences first, and returns the file's content."""
    runs = [summarize(*trained) for trained in results.train_all(CASES, data)]
    return {
        "name": "vanishing",
        "settings": RECIPE,
        "examples": EXAMPLES,
        "quantiles": list(QUANTILES),
        "runs": runs,
    }


def summarize(row: results.Row, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarizes the runs of a case, with the gradients of the first seed."""
    config = row.config()
    counts = ("correct", "validation_correct", "seconds")
    return {
        "cell": row.label,
        "steps": resolve(config, image_task(config.data)).model.count_windows(784),
        "settings": row.settings,
        "num_parameters": members[0]["num_parameters"],
        **{name: [member[name] for member in members] for name in counts},
        **measure_gradients(results.RUNS / f"{row.name}-0"),
    }


def accuracies() -> str:
    """Renders the table of test accuracies, with a column per sequence length."""
    measured = read_result("vanishing")
    lines = []
    for name in CELLS:
        runs = [run for run in measured["runs"] if run["cell"] == name]
        cells = []
        for run in runs:
            fractions = [correct / 10_000 for correct in run["correct"]]
            cells.append(result_tables.over_seeds(fractions, digits=2))
        lines.append([f"`{name}`", f"{runs[-1]['num_parameters']:,}", *cells])
    header = ("network", "parameters", *map(str, TIME_STEPS))
    return page_tables.table(header, lines)


def origin() -> str:
    """Lists the hardware and versions for docs/long_sequences.md."""
    names = ["vanishing", *(row.name for row in (*results.PIXELS, *results.PERMUTED))]
    return result_tables.origin({"Hardware (one core)": map(read_result, names)})


def plot() -> bytes:
    """Plots the gradients for the shortest and the longest sequences, as PNG."""
    runs = read_result("vanishing")["runs"]
    lengths = (TIME_STEPS[0], TIME_STEPS[-1])
    with plots.new_figure(5.4) as figure:
        figure.set_figwidth(6.4)
        grid = figure.subplots(2, 2, sharex=True, sharey=True)
        for row, steps in zip(grid, lengths, strict=True):
            shown = [run for run in runs if run["steps"] == steps]
            for axes, when in zip(row, ("before", "after"), strict=True):
                plot_curves(axes, {run["cell"]: run[when] for run in shown})
                axes.set_title(f"{steps} time steps, {when} training")
        corner = grid[0, 0]
        corner.set_yscale("log")
        corner.set_xlim(1, PARTS)
        corner.set_xticks([PARTS * quarter // 4 or 1 for quarter in range(5)])
        exponents = range(round(np.log10(FLOOR)), 3, 2)
        corner.set_yticks([10.0**exponent for exponent in exponents])
        lowest, *others = (format_power(exponent) for exponent in exponents)
        corner.set_yticklabels([f"≤ {lowest}", *others])
        corner.minorticks_off()
        for axes in grid[-1]:
            axes.set_xlabel("part of the sequence")
        figure.suptitle(
            "Norm of the gradient of one image's loss with respect to a time step's "
            "inputs,\nrelative to the last part of the sequence",
            x=0.01,
            ha="left",
            fontsize=9,
        )
        figure.legend(
            *corner.get_legend_handles_labels(), loc="outside lower center", ncols=5
        )
        return plots.to_png(figure)


def format_power(exponent: int) -> str:
    """Formats a power of ten with Unicode superscripts."""
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}" if exponent else "1"


def plot_curves(axes: Axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Plots each cell's quantiles, [3][parts], as a line with a band."""
    styles = dict(zip(NAMES, itertools.product("-:", plots.SERIES), strict=False))
    parts = np.arange(1, PARTS + 1)
    for cell, name in NAMES.items():
        low, middle, high = np.maximum(curves[cell], FLOOR)
        line, colour = styles[cell]
        axes.plot(parts, middle, line, color=colour, label=name)
        axes.fill_between(parts, low, high, color=colour, alpha=0.18, linewidth=0)


def main() -> None:
    """Parses the command line, measures, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=lambda text: Path(text).absolute())
    measured = measure(parser.parse_args().data)
    command = "python tools/vanishing.py --data=FOLDER"
    write_result("vanishing", command, measured, results.one_core())


if __name__ == "__main__":
    main()
