"""Packing: parameters as vectors, and back, without a change of any number."""

from typing import Any

import jax
import numpy as np
import pytest
from support import model_of

from rnnmnist.config.schema import Config
from rnnmnist.models.classifier import Params, abstract_params, count_params
from rnnmnist.training.optimizer import make_optimizer
from rnnmnist.training.packing import Packing
from rnnmnist.training.state import TrainState, abstract_state

SEEDS = 3
CONFIG = Config().replace({"num_seeds": SEEDS, "model.hidden_size": 5})
SHAPES = abstract_params(model_of(CONFIG.model))  # of one network
PACKING = Packing(SHAPES)
SIZE = count_params(SHAPES)


def distinct(tree: Any, *leading: int) -> Any:
    """NumPy arrays of the shapes and types of a tree, each number once."""
    first = 0

    def fill(leaf: Any) -> np.ndarray:
        nonlocal first
        shape = (*leading, *leaf.shape)
        numbers = np.arange(first, first + np.prod(shape, dtype=int), dtype=leaf.dtype)
        first += numbers.size
        return numbers.reshape(shape)

    return jax.tree.map(fill, tree)


def structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def assert_equal(found: Any, expected: Any) -> None:
    """Compares structures, shapes, types and numbers."""
    assert structure(found) == structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("leading", [(), (1,), (SEEDS,), (2, SEEDS)])
def test_a_vector_has_the_numbers_in_the_order_of_the_leaves(
    leading: tuple[int, ...],
) -> None:
    params = distinct(SHAPES, *leading)
    flatten, unflatten = jax.jit(PACKING.flatten), jax.jit(PACKING.unflatten)
    vector = flatten(params)
    assert vector.shape == (*leading, SIZE)
    leaves = [leaf.reshape(*leading, -1) for leaf in jax.tree.leaves(params)]
    np.testing.assert_array_equal(vector, np.concatenate(leaves, axis=-1))
    assert_equal(unflatten(vector), params)
    assert_equal(flatten(unflatten(vector)), vector)


def state_of(**settings: Any) -> TrainState:
    """A state of three seeds, each number once."""
    config = CONFIG.replace(settings)
    return distinct(abstract_state(config, model_of(config.model)))


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_a_packed_state_has_a_vector_for_each_tree_of_parameters(
    cell: str, averaging: float
) -> None:
    settings = {"model.cell": cell, "train.ema_decay": averaging}
    config, state = CONFIG.replace(settings), state_of(**settings)
    shapes = abstract_params(model_of(config.model))
    packing, size = Packing(shapes), count_params(shapes)
    packed = packing.pack(state)
    assert packed.step is state.step
    assert_equal(packed.params, packing.flatten(state.params))
    assert (state.ema_params is None) == (averaging == 0)
    if state.ema_params is None:
        assert packed.ema_params is None
    else:
        assert_equal(packed.ema_params, packing.flatten(state.ema_params))
    # The optimizer's state is that of an optimizer of vectors.
    init = jax.vmap(make_optimizer(config.train).init)
    vectors = jax.eval_shape(init, packed.params)
    assert structure(packed.opt_state) == structure(vectors)
    shapes_of = [leaf.shape for leaf in jax.tree.leaves(packed.opt_state)]
    assert shapes_of.count((SEEDS, size)) == 2  # Adam's moments
    assert set(shapes_of) == {(SEEDS, size), (SEEDS,)}
    assert_equal(packing.unpack(packed), state)


def test_what_is_no_tree_of_parameters_stays_as_it_is() -> None:
    params: Params = distinct(SHAPES, SEEDS)
    others = {
        "count": np.zeros(SEEDS, np.int32),
        "matrix": np.zeros((SEEDS, SIZE + 1), np.float32),
        "part": params["cell"],
        "none": None,
    }
    packed = PACKING.pack({"params": params, "others": others})
    assert packed["params"].shape == (SEEDS, SIZE)
    for before, packed_leaf, after in zip(
        jax.tree.leaves(others),
        jax.tree.leaves(packed["others"]),
        jax.tree.leaves(PACKING.unpack(packed)["others"]),
        strict=True,
    ):
        assert before is packed_leaf
        assert before is after
    assert_equal(PACKING.unpack(packed)["params"], params)
