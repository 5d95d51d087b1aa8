"""Recurrences that contain another one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import model_of, random_params, task_of

from rnnmnist.config.schema import ModelConfig
from rnnmnist.models.classifier import Params, SequenceClassifier

TIME, BATCH, FEATURES, LONGEST, BLOCK = 40, 5, 3, 13, 4
LENGTHS = np.array([4, 1, 13, 12, 5], np.int32)  # some of which end with a block
IS_READ = np.arange(TIME)[:, None] < LENGTHS


@functools.partial(jax.jit, static_argnames=("model", "every_step"))
def hidden_states(
    model: SequenceClassifier, params: Params, inputs: Any, *, every_step: bool
) -> Any:
    def run(model: SequenceClassifier, inputs: Any) -> jax.Array:
        lengths = jnp.asarray(LENGTHS)
        return model.recurrence(inputs, lengths, every_step=every_step)

    return model.apply({"params": params}, inputs, method=run)


@pytest.mark.parametrize(
    ("cell", "pooling"), [("lstm", "last"), ("gru", "mean"), ("lru", "mean")]
)
def test_a_loop_stops_at_the_longest_sequence_and_changes_no_state(
    cell: str, pooling: Any
) -> None:
    config = ModelConfig(cell=cell, hidden_size=8, pooling=pooling)
    whole = model_of(config, task_of(TIME, FEATURES, 3))
    execution = whole.execution._replace(stopping_block=BLOCK)
    stopping = whole.clone(execution=execution)
    params = random_params(whole)
    inputs = np.random.default_rng(0).normal(size=(TIME, BATCH, FEATURES))
    inputs = np.where(IS_READ[..., None], inputs, 0).astype(np.float32)
    for every_step in (False, True):
        expected, found = (
            np.asarray(hidden_states(model, params, inputs, every_step=every_step))
            for model in (whole, stopping)
        )
        if every_step:
            # The block in which the longest sequence ends is the last one.
            end = LONGEST + -LONGEST % BLOCK
            assert (found[end:] == 0).all()
            assert (found[:end] != 0).all()
            expected, found = expected[IS_READ], found[IS_READ]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
