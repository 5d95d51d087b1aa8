"""Dropout: its masks, and runs that depend on seed and step only."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    batches_of,
    chunk_of,
    learning_rates_of,
    mesh_of,
    model_of,
    random_examples,
    random_params,
    run_config,
    task_of,
)

from rnnmnist.config.resolving import RunConfig
from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.examples import Examples
from rnnmnist.models.parameters import params_sha256
from rnnmnist.models.recurrent_layer import Dropout
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.state import Program, create_state
from rnnmnist.training.step import train_chunk

RATE = 0.25
TASK = task_of(28, 28, 10)
LENGTHS = np.arange(24, dtype=np.int32) % 28 + 1
EXAMPLES = Examples(
    random_examples(24).stored / np.float32(255),
    np.asarray(LENGTHS),
    labels=random_examples(24).labels,
)
STEPS = 8
CONFIG = run_config(
    {
        "model.cell": "rnn",
        "model.hidden_size": 8,
        "model.num_layers": 2,
        "model.bidirectional": True,
        "model.pooling": "mean",
        "model.dropout": RATE,
        "train.batch_size": 16,
        "train.num_steps": 50,
    }
)


def train(config: RunConfig, devices: int, cuts: Sequence[int] = (STEPS,)) -> list[Any]:
    """Returns the members after `STEPS` updates, in calls that end at the cuts."""
    mesh = mesh_of(devices)
    program = Program.create(config, TASK, mesh)
    chunk = chunk_of(batches_of(EXAMPLES, config, mesh), 0)
    state = create_state(config, program)
    first = 0
    for end in cuts:
        state, _ = train_chunk(
            state,
            chunk,
            learning_rates_of(chunk, config),
            jnp.int32(first),
            jnp.int32(end),
            program=program,
        )
        first = end
    return split_ensemble(jax.device_get(state.params))


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_masks_depend_on_the_seed_and_the_step_only() -> None:
    """The calls, the devices and the other seeds do not change them."""
    (expected,) = train(CONFIG, 1)
    (resumed,) = train(CONFIG, 1, (3, STEPS))
    assert params_sha256(resumed) == params_sha256(expected)
    (shared,) = train(CONFIG, 2)
    two = CONFIG.replace({"num_seeds": 2})
    first, second = train(two, 1)
    close = functools.partial(np.testing.assert_allclose, atol=2e-4)
    jax.tree.map(close, shared, expected)
    jax.tree.map(close, first, expected)
    (alone,) = train(CONFIG.replace({"seed": CONFIG.seed + 1}), 1)
    jax.tree.map(close, second, alone)
    (undropped,) = train(CONFIG.replace({"model.dropout": 0.0}), 1)
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), undropped, expected)
    assert max(jax.tree.leaves(changes)) > 0.02  # more than the tolerance


def test_a_mask_keeps_the_mean() -> None:
    """Masks are independent over examples, time steps, units and layers."""
    keys = jax.random.split(jax.random.key(0), 30)
    dropout = Dropout(RATE, keys)
    drawn = [dropout.draw_mask(name, (20, 40)) for name in ("a", "b")]
    masks = np.array(drawn)
    assert masks.shape == (2, 20, 30, 40)
    assert set(np.unique(masks)) == {0, np.float32(1 / (1 - RATE))}
    for axis in range(4):
        means = masks.mean(axis=tuple({0, 1, 2, 3} - {axis}))
        np.testing.assert_allclose(means, 1, atol=0.12)
    fewer = Dropout(RATE, keys[7:9]).draw_mask("a", (20, 40))
    np.testing.assert_array_equal(fewer, masks[0, :, 7:9])


def test_outputs_are_dropped_between_layers_and_before_the_head() -> None:
    model = model_of(ModelConfig("rnn", hidden_size=8, num_layers=2, dropout=RATE))
    params = random_params(model)
    keys = jax.random.split(jax.random.key(1), 5)
    inputs = np.random.default_rng(0).normal(size=(5, 28, 28)).astype(np.float32)
    found: Any = model.apply({"params": params}, inputs, keys=keys)
    dropout = Dropout(RATE, keys)
    step: Any = nn.SimpleCell(features=8).apply
    values: Any = inputs.swapaxes(0, 1)
    for name in ("cell", "cell_1"):
        hidden = jnp.zeros((5, 8))
        states = []
        for row in values:
            hidden, _ = step({"params": params[name]}, hidden, row)
            states.append(hidden)
        values = dropout.apply(jnp.stack(states), "layer_0")
    dropped = dropout.apply(hidden, "last_layer")
    expected = dropped @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
