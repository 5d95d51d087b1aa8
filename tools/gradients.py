"""Measures the norm of the loss's gradient at each row, and plots it.

    python tools/results.py measure rnn gru default
    python tools/gradients.py measure
    python tools/gradients.py draw

`measure` takes the runs of seed 0 that the first line trains. For 1,000 validation
images, before and after training, it differentiates the loss of each image with respect
to the state after each row, and writes results/gradients.json; `draw` plots it as
docs/gradients.png.

The gradient is taken with respect to a perturbation, which is added to the state after
row *t*. A perturbation of the hidden state h affects the next row and, after the last
row, the head. A perturbation of an LSTM's cell state c affects the next row and this
row's h, through the output gate: backpropagation carries this gradient along c.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradient_plot
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.data import datasets
from rnnmnist.evaluation.restore import restore_model
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runs.selection import find_step
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.machine import describe_processor, installed_versions
from rnnmnist.runtime.mesh import make_mesh
from rnnmnist.training.state import create_state

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS = REPOSITORY / "results/gradients.json"
PICTURE = REPOSITORY / "docs/gradients.png"
# The run of each cell; all have the same recipe.
RUNS = {
    name: REPOSITORY / f"checkpoints/results/{run}-0"
    for name, run in {"rnn": "rnn", "gru": "gru", "lstm": "default"}.items()
}
EXAMPLES = 1_000  # the first images of the validation split
QUANTILES = (0.1, 0.5, 0.9)


class Perturbations(NamedTuple):
    """Additions to the state after each row, each [rows, images, hidden]."""

    h: jax.Array
    c: jax.Array  # ignored by cells without a cell state


def perturbed_logits(
    model: SequenceClassifier,
    params: Params,
    images: jax.Array,
    perturbations: Perturbations,
) -> jax.Array:
    """Applies the model, with a perturbation added to the state after each row.

    Args:
        model: from `make_model`.
        params: of one network.
        images: uint8 [images, rows, columns].
        perturbations: zeros, to differentiate with respect to.

    Returns:
        Logits, float32 [images, classes].
    """
    recurrence: Any = model.make_recurrence()
    cell = recurrence.cell
    variables = {"params": params["cell"]}
    rows = images.swapaxes(0, 1).astype(jnp.float32) / 255

    def step(carry: Any, inputs: tuple[jax.Array, Perturbations]) -> tuple[Any, None]:
        row, added = inputs
        new_carry, h = cell.apply(variables, carry, row)
        if not isinstance(new_carry, tuple):
            return h + added.h, None
        (c, _), (_, old_h) = new_carry, carry  # Flax's order: (c, h)
        o = output_gate(params["cell"], row, old_h)
        h += o * (jnp.tanh(c + added.c) - jnp.tanh(c))
        return (c + added.c, h + added.h), None

    carry = cell.initialize_carry(jax.random.key(0), rows[0].shape)  # zeros
    carry, _ = jax.lax.scan(step, carry, (rows, perturbations))
    hidden = carry[1] if isinstance(carry, tuple) else carry
    head: Any = model.make_head()
    return head.apply({"params": params["head"]}, hidden)


def output_gate(cell: Mapping[str, Any], row: jax.Array, h: jax.Array) -> jax.Array:
    """Returns an LSTM's output gate at a row, [images, hidden]."""
    from_row, from_hidden = row @ cell["io"]["kernel"], h @ cell["ho"]["kernel"]
    return jax.nn.sigmoid(from_row + from_hidden + cell["ho"]["bias"][None])


def gradients(
    model: SequenceClassifier, params: Params, images: np.ndarray, labels: np.ndarray
) -> Perturbations:
    """Differentiates each image's loss with respect to the state after each row.

    Args:
        model: from `make_model`.
        params: of one network.
        images: uint8 [images, rows, columns].
        labels: [images].

    Returns:
        float32 [rows, images, hidden]; zeros for c if the cell has no cell state.
    """

    def loss(perturbations: Perturbations) -> jax.Array:
        logits = perturbed_logits(model, params, jnp.asarray(images), perturbations)
        # A perturbation affects its own image only, so the sum separates the gradients.
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.asarray(labels, jnp.int32)
        ).sum()

    units = len(params["head"]["kernel"])
    zeros = jnp.zeros((images.shape[1], len(images), units))
    return jax.jit(jax.grad(loss))(Perturbations(zeros, zeros))


def norm_quantiles(
    model: SequenceClassifier, params: Params, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Computes quantiles over images of the gradient's norm at each row.

    Returns:
        For each part of the state, `norm` and `relative`, the norm divided by that
        image's norm after the last row: [quantiles][rows] each.
    """
    found = gradients(model, params, images, labels)
    parts = {}
    for name, gradient in found._asdict().items():
        norm = np.linalg.norm(np.asarray(gradient, np.float64), axis=-1)
        if norm.any():
            parts[name] = {
                "norm": rounded(np.quantile(norm, QUANTILES, axis=1)),
                "relative": rounded(np.quantile(norm / norm[-1], QUANTILES, axis=1)),
            }
    return parts


def rounded(table: np.ndarray) -> list[list[float]]:
    """Rounds to four significant digits, more than the precision of 1,000 images."""
    return [[float(f"{value:.4g}") for value in row] for row in table]


def measure() -> dict[str, Any]:
    """Measures the gradients of each cell.

    Returns:
        The content of `results/gradients.json`.

    Raises:
        SystemExit: if the runs differ in more than their cells.
    """
    cells, recipes = {}, []
    mesh = make_mesh(batch_size=1, num_devices=1, num_seeds=1)
    for name, folder in RUNS.items():
        step = find_step(folder, "best")
        restored = restore_model(folder, step, mesh)
        config, model, params = restored.config, restored.model, restored.params
        same = dict.fromkeys(DATA_PATHS) | {"model.cell": "lstm"}
        recipes.append(config.replace(same))
        examples = datasets.load(config.data).splits["validation"].first(EXAMPLES)
        images, labels = examples.take(slice(None)), examples.labels
        (trained,) = split_ensemble(params)
        (untrained,) = split_ensemble(create_state(config, model, mesh).params)
        cells[name] = {
            "step": step,
            "before": norm_quantiles(model, untrained, images, labels),
            "after": norm_quantiles(model, trained, images, labels),
        }
    if len(set(recipes)) > 1:
        raise SystemExit("the runs differ in more than model.cell: train them again")
    return {
        "name": "gradients",
        "command": "python tools/gradients.py measure",
        "hardware": describe_processor(),
        "versions": installed_versions(),
        "config": msgspec.to_builtins(recipes[0]),
        "split": "validation",
        "examples": EXAMPLES,
        "quantiles": list(QUANTILES),
        "cells": cells,
    }


def plot(measured: dict[str, Any]) -> bytes:
    """Plots the relative norm at each row, before and after training, as a PNG.

    Args:
        measured: the content of `results/gradients.json`.
    """

    def lanes(when: str) -> dict[str, Any]:
        cells = measured["cells"]
        return {
            f"{name} {part}": cells[name][when][part]["relative"]
            for name in ("lstm", "rnn", "gru")
            for part in sorted(cells[name][when])  # c before h
        }

    return gradient_plot.gradients(
        {f"{when} training": lanes(when) for when in ("before", "after")},
        title="Norm of the gradient of one image's loss with respect to the state\n"
        "after each row, in % of the norm after row 28",
        label="row (backpropagation goes from right to left)",
    )


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure")
    commands.add_parser("draw")
    if parser.parse_args().command == "measure":
        NUMBERS.write_text(json.dumps(measure(), indent=1) + "\n")
    else:
        PICTURE.write_bytes(plot(json.loads(NUMBERS.read_text())))


if __name__ == "__main__":
    main()
