"""Compiled training agrees with the same functions, executed op by op in float64.

The reference has no fusion, no compiled loop and no collective. So the tests find
programs that XLA compiles incorrectly, but no errors that both sides share, such as an
error in the hand-written derivative of the LSTM.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from support import (
    REPOSITORY,
    TASK,
    chunk_of,
    learning_rates_of,
    mesh_of,
    random_examples,
    task_of,
)

from rnnmnist.config.files import load_config
from rnnmnist.config.resolving import RunConfig, fill_defaults
from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Chunk
from rnnmnist.data.examples import Examples
from rnnmnist.data.placement import open_batches
from rnnmnist.runtime.devices import make_mesh
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.state import Program, TrainState, create_state
from rnnmnist.training.step import train_chunk

CONFIGS = {
    path.stem: load_config(path) for path in (REPOSITORY / "configs").glob("*.py")
}
# CI runs the first one.
TABLE = """
cell    config       pooling  loss        lengths  window  weights  seeds  devices
lru     best         last     every_step  yes      1       no       1      2
gru     best         mean     last        yes      8       yes      2      2
lstm    trained      mean     every_step  yes      8       no       2      2
lstm    best         mean     every_step  no       8       yes      1      2
lstm    large_batch  last     last        yes      1       no       1      1
gru     trained      last     every_step  no       1       no       1      1
rnn     trained      last     last        no       8       yes      2      2
rnn     best         mean     every_step  yes      1       yes      1      1
rnn     large_batch  mean     every_step  no       8       no       2      1
gru     large_batch  last     last        no       8       yes      1      2
lru     large_batch  mean     every_step  yes      1       no       2      1
lru     trained      mean     last        no       8       yes      2      1
"""
HEADER, *CASES = (line.split() for line in TABLE.strip().splitlines())
COUNT = 1500  # examples, more than in a batch


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        CASES[0],
        *(pytest.param(case, marks=pytest.mark.exhaustive) for case in CASES[1:]),
    ],
    ids="-".join,
)
def test_two_updates_on_sequences(case: list[str]) -> None:
    chosen = dict(zip(HEADER, case, strict=True))
    given = dataclasses.replace(CONFIGS[chosen["config"]], data=DataConfig())
    given = given.replace(
        {
            "num_seeds": int(chosen["seeds"]),
            "model.cell": chosen["cell"],
            "model.pooling": chosen["pooling"],
            "model.window": int(chosen["window"]),
            "model.bidirectional": chosen["loss"] == "last",
            "train.loss": chosen["loss"],
        }
    )
    generator = np.random.default_rng(0)
    sequences = generator.normal(size=(COUNT, 28, 28)).astype(np.float32)
    labels = generator.integers(0, 10, COUNT, np.int32)
    lengths = None
    if chosen["lengths"] == "yes":
        lengths = generator.integers(1, 29, COUNT, np.int32)
        sequences[np.arange(28) >= lengths[:, None]] = 0
    weights = None
    if chosen["weights"] == "yes":
        weights = np.linspace(0.2, 3, 10, dtype=np.float32)
    examples = Examples(sequences, lengths, labels=labels)
    # The default batch is that of as many examples as MNIST has.
    task = dataclasses.replace(task_of(28, 28, 10), examples=TASK.examples)
    config = fill_defaults(given, task)
    compare(config, task, examples, int(chosen["devices"]), weights)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_updates_on_augmented_images() -> None:
    """The type is float32, since `jax.random` draws other numbers in float64."""
    config = fill_defaults(CONFIGS["best"], TASK)
    compare(config, TASK, random_examples(COUNT), 2, dtype=np.float32)


def compare(
    config: RunConfig,
    task: Task,
    examples: Examples,
    devices: int,
    class_weights: np.ndarray | None = None,
    dtype: Any = np.float64,
) -> None:
    """Compares two updates, compiled for some devices, with a reference of a type."""
    mesh = make_mesh(config.train.batch_size, devices, config.num_seeds)
    program = Program.create(config, task, mesh)
    if class_weights is not None:
        weights = class_weights[examples.labels]
        examples = dataclasses.replace(examples, weights=weights)
    with open_batches(examples, config, mesh) as source:
        chunk = chunk_of(source, 0)
    state = create_state(config, program)
    arrays: Any = state, chunk, learning_rates_of(chunk, config)
    same = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if leaf.dtype == np.float32 else leaf,
        jax.device_get(arrays),
    )
    found = train(*arrays, program=program)
    with op_by_op(dtype):
        same = jax.tree.map(jnp.asarray, same)
        expected = train(*same, program=program._replace(mesh=mesh_of(1)))
    assert expected[0]["loss"].dtype == dtype
    jax.tree.map_with_path(assert_close, found, expected)


@contextlib.contextmanager
def op_by_op(dtype: Any) -> Iterator[None]:
    """Executes each operation of single-device programs separately.

    Within `shard_map`, `disable_jit` compiles whole loops. On one device, collectives
    are the identity, and `shard_map` is not needed.
    """
    jax.config.update("jax_enable_x64", dtype == np.float64)
    try:
        with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
            patch.setattr(jax, "shard_map", lambda function, **_: function)
            patch.setattr(jax.lax, "psum", lambda array, axis: array)
            patch.setattr(jax.lax, "axis_index", lambda axis: 0)
            yield
    finally:
        jax.config.update("jax_enable_x64", False)


def train(
    state: TrainState,
    chunk: Chunk,
    learning_rates: jax.Array,
    *,
    program: Program,
) -> list[Any]:
    """Returns the losses and gradients of two updates for each member.

    The first moment of Adam is a weighted sum of both clipped gradients.
    """
    _, unravel = ravel_pytree(split_ensemble(state.params)[0])
    state, metrics = train_chunk(
        state, chunk, learning_rates, np.int32(0), np.int32(2), program=program
    )
    results = {
        "loss": metrics["loss"][:, :2],
        "grad_norm": metrics["grad_norm"][:, :2],
        "gradients": jax.vmap(unravel)(optax.tree.get(state.opt_state, "mu")),
    }
    return split_ensemble(jax.device_get(results))


def assert_close(path: Any, found: np.ndarray, expected: np.ndarray) -> None:
    """Checks the largest error relative to the root mean square of an array.

    A relative error in norm would hide a single wrong element. In these cases, float32
    op by op differs from float64 by up to 3e-4.
    """
    error, size = np.abs(found - expected).max(), np.sqrt(np.square(expected).mean())
    assert error <= 5e-4 * size, jax.tree_util.keystr(path)
