"""Logits for any batch size, padding and mesh; decision times."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from support import (
    ROWS,
    inputs_of,
    mesh_of,
    model_of,
    random_examples,
    random_params,
)

from rnnmnist.config.schema import ModelConfig
from rnnmnist.data.examples import Examples, Inputs, Normalization
from rnnmnist.errors import RunError
from rnnmnist.evaluation.predictions import decision_times, predict_logits
from rnnmnist.models.parameters import Params
from rnnmnist.runtime.mesh import split_ensemble

MODEL = model_of(ModelConfig(hidden_size=8))
NETWORK = random_params(MODEL)
PARAMS = jax.tree.map(lambda leaf: leaf[None], NETWORK)
SPLIT = random_examples(1003)
IMAGES = SPLIT.stored
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """Returns the logits of the network for all images, [images, classes]."""
    predict = jax.jit(functools.partial(MODEL.apply, {"params": NETWORK}))
    return np.asarray(predict(inputs_of(IMAGES)))


def logits_of(
    inputs: Inputs,
    *,
    params: Params = PARAMS,
    devices: int = 1,
    seeds: int = 1,
    every_step: bool = False,
    **execution: Any,
) -> np.ndarray:
    model = MODEL.clone(execution=MODEL.execution._replace(**execution))
    mesh = mesh_of(devices, seeds)
    return predict_logits(model, params, inputs, ROWS, mesh, every_step=every_step)


@pytest.mark.parametrize(
    ("count", "batch", "devices", "is_split"),
    [
        (1, 64, 8, False),  # most devices have only padding
        (99, 7, 8, True),
        (128, 64, 2, False),
        (1003, 5000, 1, True),
    ],
)
def test_batch_padding_and_devices_change_no_result(
    count: int, batch: int, devices: int, is_split: bool, logits: np.ndarray
) -> None:
    inputs = Inputs(IMAGES[:count])
    if is_split:
        inputs = Examples(inputs.stored, labels=SPLIT.labels[:count])
    (found,) = logits_of(inputs, devices=devices, eval_batch_size=batch)
    assert_close(found, logits[:count])


@pytest.mark.parametrize(
    "how",
    [
        {"vectorize_ensemble": False},
        {"vectorize_ensemble": True},
        {"devices": 8, "seeds": 2},
    ],
)
def test_each_member_predicts_as_a_network_of_its_own(
    how: dict[str, Any], logits: np.ndarray
) -> None:
    """A device computes all members at once or in turn, or each has its own devices."""
    members = [jax.tree.map(np.negative, PARAMS), PARAMS]
    ensemble = jax.tree.map(lambda *leaves: np.concatenate(leaves), *members)
    found = logits_of(Inputs(IMAGES), params=ensemble, **how)
    assert_close(found[1], logits)
    (alone,) = logits_of(Inputs(IMAGES), params=members[0])
    assert_close(found[0], alone)
    jax.tree.map(np.testing.assert_array_equal, split_ensemble(ensemble)[1], NETWORK)


def test_nonfinite_logits_are_refused() -> None:
    """The error names the first example with such logits of any member. Padding is not
    checked.
    """
    stored = np.zeros((60, 28, 28), np.float32)
    stored[[31, 17], 2] = np.inf
    inputs = Inputs(stored, ids=tuple(f"case {index}" for index in range(60)))
    for every_step in (False, True):
        with pytest.raises(RunError, match="example case 17 because"):
            logits_of(inputs, every_step=every_step, eval_batch_size=7)
    lengths = np.full(60, 28, np.int32)
    lengths[[31, 17]] = 2
    padded = Inputs(stored, lengths)
    assert np.isnan(logits_of(padded, every_step=True)[0, 17, 2:]).all()
    assert np.isfinite(logits_of(padded)).all()
    ensemble = jax.tree.map(
        lambda leaf: np.concatenate([leaf, np.full_like(leaf, np.nan)]), PARAMS
    )
    with pytest.raises(RunError, match="example 0 "):
        logits_of(Inputs(IMAGES[:60]), params=ensemble)


def test_decision_times_by_hand() -> None:
    predicted = np.array([[3, 3, 3, 3], [1, 3, 3, 3], [1, 2, 1, 3], [3, 1, 3, 3]])
    assert decision_times(predicted).tolist() == [1, 2, 4, 3]


def test_predictions_read_no_padding() -> None:
    """Logits are equal for all batch sizes, padded lengths and orders of examples."""
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(60, 28, 28)).astype(np.float32)
    indices = generator.permutation(60)[:37]
    lengths = generator.integers(1, 29, 37, np.int32)
    same = Normalization(np.zeros(28), np.ones(28), "error")
    inputs = Inputs(stored, lengths, indices, same)
    shards: dict[str, Any] = {"devices": 8, "eval_batch_size": 3}
    (found,) = logits_of(inputs, every_step=True, **shards)
    model = functools.partial(MODEL.apply, {"params": NETWORK}, every_step=True)
    expected = np.asarray(jax.jit(model)(stored[indices]))
    read = np.arange(28) < lengths[:, None]
    assert_close(found[read], expected[read])
    (last,) = logits_of(inputs, **shards)
    assert_close(last, expected[np.arange(37), lengths - 1])
    (of_split,) = logits_of(Examples(**vars(inputs), labels=lengths), **shards)
    assert_close(of_split, last)
