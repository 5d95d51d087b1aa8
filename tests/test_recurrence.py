"""The written-out recurrence is Flax's cell, in value and in gradient."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rnnmnist.config import ModelConfig
from rnnmnist.errors import UserError
from rnnmnist.model import Params, RowReader, init_params, make_model

SHAPES = [(1, 2, 1, 1), (3, 28, 28, 128), (16, 28, 28, 32), (5, 7, 3, 16)]


def networks(hidden_size: int, remat_rows: int | None = None) -> tuple[RowReader, ...]:
    """The same network, by the fused recurrence and by Flax's cell."""
    config = ModelConfig(hidden_size=hidden_size, remat_rows=remat_rows)
    return tuple(
        make_model(dataclasses.replace(config, recurrence=name))
        for name in ("fused", "flax")
    )


def some_params(model: RowReader, columns: int = 28) -> Params:
    """Parameters none of which is zero, nor small."""
    images = jnp.zeros((1, 1, columns))
    params = dataclasses.replace(model, remat_rows=None).init(
        jax.random.key(0), images
    )["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            leaf + 0.2 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


def loss(model: RowReader, params: Params, images: jax.Array) -> jax.Array:
    """Something that depends on every logit, and unevenly."""
    return jnp.sum(jnp.sin(3 * jnp.asarray(model.apply({"params": params}, images))))


def assert_close(one: Any, other: Any) -> None:
    """Equal to float32 rounding, beside the largest number of each array."""

    def close(one: Any, other: Any) -> None:
        one, other = np.asarray(one), np.asarray(other)
        assert np.abs(other).max() > 0, "nothing to compare"
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())

    jax.tree.map(close, one, other)


@pytest.mark.parametrize(("batch", "rows", "columns", "hidden"), SHAPES)
def test_values_and_gradients_are_those_of_the_cell(
    batch: int, rows: int, columns: int, hidden: int
) -> None:
    fused, flax = networks(hidden)
    params = some_params(flax, columns)
    images = jax.random.normal(jax.random.key(2), (batch, rows, columns))
    values = [
        jax.jit(jax.value_and_grad(lambda p, x, m=model: loss(m, p, x), (0, 1)))(
            params, images
        )
        for model in (fused, flax)
    ]
    assert_close(*values)


def test_gradients_are_those_of_finite_differences() -> None:
    fused, _ = networks(4)
    params = some_params(fused, 3)
    images = jax.random.normal(jax.random.key(2), (2, 5, 3))
    jax.test_util.check_grads(
        lambda p, x: loss(fused, p, x),
        (params, images),
        order=1,
        modes=["rev"],
        atol=2e-2,
        rtol=2e-2,
    )


def test_a_stack_under_vmap_is_that_of_the_cell() -> None:
    fused, flax = networks(16)
    one = some_params(flax)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, -leaf]), one)
    images = jax.random.normal(jax.random.key(2), (3, 4, 28, 28))
    values = [
        jax.vmap(jax.value_and_grad(lambda p, x, m=model: loss(m, p, x)))(stack, images)
        for model in (fused, flax)
    ]
    assert_close(*values)


def test_shares_of_a_batch_under_shard_map_are_those_of_the_cell() -> None:
    fused, flax = networks(16)
    params = some_params(flax)
    images = jax.random.normal(jax.random.key(2), (8, 28, 28))
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradient(model: RowReader) -> Any:
        def share(params: Params, images: jax.Array) -> Any:
            grads = jax.grad(lambda p: loss(model, p, images))(params)
            return jax.lax.psum(grads, "batch")

        return jax.jit(
            jax.shard_map(
                share,
                mesh=mesh,
                in_specs=(P(), P("batch")),
                out_specs=P(),
                check_vma=False,
            )
        )(params, images)

    assert_close(gradient(fused), gradient(flax))
    assert_close(gradient(fused), jax.grad(lambda p: loss(flax, p, images))(params))


def test_the_parameters_are_the_same_numbers_under_the_same_names() -> None:
    fused, flax = (init_params(m, jax.random.key(0), 1.0) for m in networks(8))
    assert jax.tree.structure(fused) == jax.tree.structure(flax)
    assert jax.tree.all(jax.tree.map(np.array_equal, fused, flax))


@pytest.mark.parametrize("name", ["fused", "flax"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("block", [1, 4, 28])
def test_blocks_of_rows_change_nothing(name: str, cell: str, block: int) -> None:
    whole = ModelConfig(cell=cell, hidden_size=8, recurrence=name)  # type: ignore[arg-type]
    params = some_params(make_model(whole))
    images = jax.random.normal(jax.random.key(2), (3, 28, 28))
    models = [
        make_model(whole),
        make_model(dataclasses.replace(whole, remat_rows=block)),
    ]
    values = [
        jax.value_and_grad(lambda p, m=model: loss(m, p, images))(params)
        for model in models
    ]
    assert_close(*values)


def test_blocks_of_rows_save_memory() -> None:
    images = jnp.zeros((32, 784, 28))

    def memory(remat_rows: int | None) -> int:
        model, _ = networks(64, remat_rows)
        params = some_params(model)
        compiled = jax.jit(jax.grad(lambda p: loss(model, p, images))).lower(params)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert memory(28) < memory(None) / 4


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    model, _ = networks(8, remat_rows=4)
    with pytest.raises(ValueError, match="30 rows are not blocks of 4 rows"):
        model.apply({"params": some_params(model)}, jnp.zeros((1, 30, 28)))
    with pytest.raises(UserError, match="must be one of 1, 2, 4, 7, 14, 28, not 5"):
        ModelConfig(remat_rows=5)


@pytest.mark.parametrize("block", [None, 7])
def test_after_every_row_the_last_is_the_answer(block: int | None) -> None:
    fused, flax = networks(16, block)
    params = some_params(flax)
    images = jax.random.normal(jax.random.key(2), (3, 28, 28))
    rows = fused.apply({"params": params}, images, every_row=True)
    assert rows.shape == (3, 28, 10)
    assert_close(rows[:, -1], fused.apply({"params": params}, images))
    assert_close(rows, flax.apply({"params": params}, images, every_row=True))
