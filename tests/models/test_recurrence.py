"""The fused recurrence equals Flax's cell, in values and gradients."""

import dataclasses
import functools
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support import abstract_params, random_params

from rnnmnist.config.schema import ModelConfig
from rnnmnist.errors import UserError
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    init_params,
    make_model,
)

Cell = Literal["lstm", "gru", "rnn"]
Recurrence = Literal["fused", "flax"]
# Batch, rows, columns and hidden size, all different to reveal swapped axes.
SHAPE = (5, 28, 3, 8)


def networks(hidden_size: int) -> tuple[SequenceClassifier, ...]:
    """The same network with the fused recurrence and with Flax's cell."""
    return tuple(
        make_model(ModelConfig(hidden_size=hidden_size, recurrence=name))
        for name in ("fused", "flax")
    )


def some_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def loss(model: SequenceClassifier, params: Params, images: Any) -> jax.Array:
    """A scalar that depends on every logit, unevenly."""
    return jnp.sum(jnp.sin(3 * jnp.asarray(model.apply({"params": params}, images))))


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(model: SequenceClassifier, params: Params, images: Any) -> Any:
    """The loss, and its gradients with respect to the parameters and the images."""
    return jax.value_and_grad(functools.partial(loss, model), (0, 1))(params, images)


def assert_close(one: Any, other: Any) -> None:
    """Checks equality up to float32 rounding of the largest number of each array."""

    def close(one: Any, other: Any) -> None:
        one, other = np.asarray(one), np.asarray(other)
        assert np.abs(other).max() > 0, "nothing to compare"
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())

    jax.tree.map(close, one, other)


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "hidden"),
    [
        (1, 2, 1, 1),
        SHAPE,
        # The same program in larger sizes, including the default.
        pytest.param(16, 28, 28, 32, marks=pytest.mark.slow),
        pytest.param(3, 28, 28, 128, marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_equal_the_cells(
    batch: int, rows: int, columns: int, hidden: int
) -> None:
    fused, flax = networks(hidden)
    params = random_params(flax, columns)
    images = some_images(batch, rows, columns)
    assert_close(
        value_and_gradients(fused, params, images),
        value_and_gradients(flax, params, images),
    )


def test_gradients_equal_finite_differences() -> None:
    fused, _ = networks(4)
    params = random_params(fused, 3)
    jax.test_util.check_grads(
        jax.jit(functools.partial(loss, fused)),
        (params, some_images(2, 5, 3)),
        order=1,
        modes=["rev"],
        atol=2e-2,
        rtol=2e-2,
    )


def test_an_ensemble_under_vmap_equals_the_cells() -> None:
    batch, rows, columns, hidden = SHAPE
    fused, flax = networks(hidden)
    one = random_params(flax, columns)
    ensemble = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf, -leaf]), one)
    images = some_images(3, batch, rows, columns)
    found = jax.jit(jax.vmap(functools.partial(value_and_gradients, fused)))
    # One at a time: the program of the tests above.
    single = [
        value_and_gradients(flax, jax.tree.map(operator.itemgetter(i), ensemble), own)
        for i, own in enumerate(images)
    ]
    assert_close(found(ensemble, images), jax.tree.map(lambda *x: np.stack(x), *single))


def test_shards_of_a_batch_under_shard_map_equal_the_cells() -> None:
    _, rows, columns, hidden = SHAPE
    fused, flax = networks(hidden)
    params = random_params(flax, columns)
    images = some_images(8, rows, columns)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradient(model: SequenceClassifier) -> Any:
        def shard_gradient(params: Params, images: jax.Array) -> Any:
            grads = jax.grad(lambda p: loss(model, p, images))(params)
            return jax.lax.psum(grads, "batch")

        return jax.jit(
            jax.shard_map(
                shard_gradient,
                mesh=mesh,
                in_specs=(P(), P("batch")),
                out_specs=P(),
                check_vma=False,
            )
        )(params, images)

    found = gradient(fused)
    assert_close(found, gradient(flax))
    _, (whole, _) = value_and_gradients(flax, params, images)
    assert_close(found, whole)


def test_the_parameters_have_the_same_names_and_values() -> None:
    init = jax.jit(init_params, static_argnums=0)
    fused, flax = (init(model, jax.random.key(0), 1.0) for model in networks(8))
    assert str(jax.tree.structure(fused)) == str(jax.tree.structure(flax))
    assert jax.tree.all(jax.tree.map(np.array_equal, fused, flax))


BLOCKS = [
    pytest.param(cell, name, block, marks=[] if default else pytest.mark.slow)
    for cell, name, block, default in [
        # By default every cell, and every kind of block for the fused recurrence.
        ("lstm", "fused", 1, True),
        ("lstm", "fused", 4, True),
        ("lstm", "fused", 28, True),
        ("lstm", "flax", 1, False),
        ("lstm", "flax", 4, True),
        ("lstm", "flax", 28, False),
        ("gru", "flax", 1, False),
        ("gru", "flax", 4, True),
        ("gru", "flax", 28, False),
        ("rnn", "flax", 1, False),
        ("rnn", "flax", 4, True),
        ("rnn", "flax", 28, False),
    ]
]


@pytest.mark.parametrize(("cell", "name", "block"), BLOCKS)
def test_rematerialization_keeps_values_and_gradients(
    cell: Cell, name: Recurrence, block: int
) -> None:
    batch, rows, columns, hidden = SHAPE
    config = ModelConfig(cell=cell, hidden_size=hidden, recurrence=name)
    whole = make_model(config)
    blocks = make_model(dataclasses.replace(config, remat_rows=block))
    params, images = random_params(whole, columns), some_images(batch, rows, columns)
    assert_close(
        value_and_gradients(whole, params, images),
        value_and_gradients(blocks, params, images),
    )


def test_rematerialization_saves_memory() -> None:
    images = jax.ShapeDtypeStruct((32, 784, 28), jnp.float32)

    def memory(remat_rows: int | None) -> int:
        model = make_model(ModelConfig(hidden_size=64, remat_rows=remat_rows))
        gradient = jax.jit(jax.grad(functools.partial(loss, model)))
        lowered = gradient.lower(abstract_params(model), images)
        analysis = lowered.compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(28) < memory(None) / 4


def test_remat_rows_must_divide_the_rows() -> None:
    model = make_model(ModelConfig(hidden_size=8, remat_rows=4))
    with pytest.raises(ValueError, match="must be a multiple of remat_rows=4, not 30"):
        model.apply({"params": random_params(model, 28)}, jnp.zeros((1, 30, 28)))
    with pytest.raises(UserError, match="must be one of 1, 2, 4, 7, 14, 28, not 5"):
        ModelConfig(remat_rows=5)


@functools.partial(jax.jit, static_argnums=0)
def logits_after_every_row(
    model: SequenceClassifier, params: Params, images: Any
) -> jax.Array:
    return jnp.asarray(model.apply({"params": params}, images, every_row=True))


@pytest.mark.parametrize("block", [None, 7])
def test_logits_after_every_row_end_with_the_prediction(block: int | None) -> None:
    batch, rows, columns, hidden = SHAPE
    fused, flax = (
        dataclasses.replace(model, remat_rows=block) for model in networks(hidden)
    )
    params, images = random_params(flax, columns), some_images(batch, rows, columns)
    found = logits_after_every_row(fused, params, images)
    assert found.shape == (batch, rows, 10)
    last = jax.jit(lambda p, x: fused.apply({"params": p}, x))(params, images)
    assert_close(found[:, -1], last)
    assert_close(found, logits_after_every_row(flax, params, images))
