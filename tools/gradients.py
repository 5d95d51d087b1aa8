"""Measures how much of a loss's gradient arrives at each row, and draws it.

    python tools/results.py measure rnn gru default
    python tools/gradients.py measure
    python tools/gradients.py draw

`measure` takes the runs of seed 0 that the first line has left, follows the gradient of
one image's loss back to each row, before training and after, for 1,000 validation
images, and writes results/gradients.json; `draw` makes docs/gradients.png of it.

A gradient is that of the loss after the last row with respect to the state after row
*t*: to what is added there, when everything that follows from it follows. What is added
to the hidden state h reaches the next row and, after the last one, the read-out. What
is added to an LSTM's cell state c reaches the next row and this row's h, which is the
output gate's share of tanh(c): the gradient that backpropagation carries along c.
"""

import argparse
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.selection import find_step
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.data import datasets
from rnnmnist.data.datasets import Examples
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    make_model,
)
from rnnmnist.reporting import plots
from rnnmnist.runtime.hardware import hardware
from rnnmnist.runtime.mesh import local_sharding, make_mesh
from rnnmnist.training.state import create_state

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBERS = REPOSITORY / "results/gradients.json"
PICTURE = REPOSITORY / "docs/gradients.png"
# Of each cell, under one recipe.
RUNS = {
    name: REPOSITORY / f"checkpoints/results/{run}-0"
    for name, run in {"rnn": "rnn", "gru": "gru", "lstm": "default"}.items()
}
PACKAGES = ("jax", "flax", "optax", "numpy")
EXAMPLES = 1_000  # of the validation split, the first
QUANTILES = (0.1, 0.5, 0.9)


class Nudges(NamedTuple):
    """What is added to the state after each row, each [rows, images, hidden]."""

    h: jax.Array
    c: jax.Array  # without effect in a cell that has no cell state


def read_nudged(
    model: SequenceClassifier, params: Params, images: jax.Array, nudges: Nudges
) -> jax.Array:
    """Reads images as the model does, with something added after each row.

    Args:
        model: from `make_model`.
        params: of one network.
        images: uint8 [images, rows, columns].
        nudges: zeros, to be differentiated.

    Returns:
        Logits, float32 [images, classes]; with zeros, the model's.
    """
    cell: Any = model.make_cell()
    variables = {"params": params["cell"]}
    rows = images.swapaxes(0, 1).astype(jnp.float32) / 255

    def read_row(carry: Any, step: tuple[jax.Array, Nudges]) -> tuple[Any, None]:
        row, nudge = step
        after, h = cell.apply(variables, carry, row)
        if not isinstance(after, tuple):
            return h + nudge.h, None
        (c, _), (_, h_before) = after, carry  # cell state first
        o = output_gate(params["cell"], row, h_before)
        nudged = c + nudge.c
        h = h + o * (jnp.tanh(nudged) - jnp.tanh(c))
        return (nudged, h + nudge.h), None

    carry = cell.initialize_carry(jax.random.key(0), rows[0].shape)  # zeros
    carry, _ = jax.lax.scan(read_row, carry, (rows, nudges))
    hidden = carry[1] if isinstance(carry, tuple) else carry
    head: Any = model.make_head()
    return head.apply({"params": params["head"]}, hidden)


def output_gate(cell: Mapping[str, Any], row: jax.Array, h: jax.Array) -> jax.Array:
    """How much of its cell state an LSTM shows after a row, [images, hidden]."""
    from_row, from_hidden = row @ cell["io"]["kernel"], h @ cell["ho"]["kernel"]
    return jax.nn.sigmoid(from_row + from_hidden + cell["ho"]["bias"][None])


def gradients(
    model: SequenceClassifier, params: Params, images: np.ndarray, labels: np.ndarray
) -> Nudges:
    """The gradient of each image's loss with respect to the state after each row.

    Args:
        model: from `make_model`.
        params: of one network.
        images: uint8 [images, rows, columns].
        labels: [images].

    Returns:
        float32 [rows, images, hidden], for each part of the state; zeros for c where
        there is none.
    """

    def loss(nudges: Nudges) -> jax.Array:
        logits = read_nudged(model, params, jnp.asarray(images), nudges)
        # An image's nudges change its own loss only: the sum keeps gradients apart.
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.asarray(labels, jnp.int32)
        ).sum()

    units = len(params["head"]["kernel"])
    zeros = jnp.zeros((images.shape[1], len(images), units))
    return jax.jit(jax.grad(loss))(Nudges(zeros, zeros))


def spread(
    model: SequenceClassifier, params: Params, examples: Examples
) -> dict[str, Any]:
    """How large the gradients are over images: quantiles for each row.

    Returns:
        For each part of the state `norm`, that of the gradient, and `left`, the same
        over the norm after that image's last row: [quantiles][rows] each.
    """
    found = gradients(model, params, *examples)
    parts = {}
    for name, gradient in found._asdict().items():
        norm = np.linalg.norm(np.asarray(gradient, np.float64), axis=-1)
        if norm.any():
            parts[name] = {
                "norm": rounded(np.quantile(norm, QUANTILES, axis=1)),
                "left": rounded(np.quantile(norm / norm[-1], QUANTILES, axis=1)),
            }
    return parts


def rounded(table: np.ndarray) -> list[list[float]]:
    """To four digits, which is more than 1,000 images can tell."""
    return [[float(f"{value:.4g}") for value in row] for row in table]


def measure() -> dict[str, Any]:
    """Follows the gradients of each cell.

    Returns:
        What `results/gradients.json` holds.
    """
    cells, recipes = {}, []
    for name, folder in RUNS.items():
        step = find_step(folder, "best")
        config = store.read_config(folder, step)
        nowhere = dict.fromkeys(DATA_PATHS)
        recipes.append(config.replace(nowhere | {"model.cell": "lstm"}))
        images, labels = datasets.load(config.data)["validation"]
        examples = Examples(images[:EXAMPLES], labels[:EXAMPLES])
        model = make_model(config.model)
        start = create_state(config, model, make_mesh(config.train.batch_size, 1, 1))
        trained = store.read_params(
            folder, step, abstract_params(model, local_sharding())
        )
        cells[name] = {
            "step": step,
            "before": spread(model, start.params, examples),
            "after": spread(model, trained, examples),
        }
    if len(set(recipes)) > 1:
        raise SystemExit("the runs differ in more than their cells: measure them again")
    return {
        "name": "gradients",
        "command": "python tools/gradients.py measure",
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "config": recipes[0].to_dict(),
        "split": "validation",
        "examples": EXAMPLES,
        "quantiles": list(QUANTILES),
        "cells": cells,
    }


def picture(document: dict[str, Any]) -> bytes:
    """How much of the gradient is left at each row, before training and after.

    Args:
        document: what `results/gradients.json` holds.
    """

    def lanes(when: str) -> dict[str, Any]:
        cells = document["cells"]
        return {
            f"{name}, {part}": cells[name][when][part]["left"]
            for name in ("lstm", "rnn", "gru")  # as the palette's colours go
            for part in sorted(cells[name][when])  # c before h
        }

    return plots.gradients(
        {f"{when} training": lanes(when) for when in ("before", "after")}
    )


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("measure")
    commands.add_parser("draw")
    if parser.parse_args().command == "measure":
        NUMBERS.write_text(json.dumps(measure(), indent=1) + "\n")
    else:
        PICTURE.write_bytes(picture(json.loads(NUMBERS.read_text())))


if __name__ == "__main__":
    main()
