"""The training step: one program, reproducible bits, no non-finite updates.

Most tests share one configuration, on a mesh of one device and on one of eight, so that
two programs are compiled.
"""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from support import (
    TASK,
    Batch,
    batches_of,
    chunk_of,
    mesh_of,
    model_of,
    random_examples,
    read_batch,
)

from rnnmnist.config.platforms import DEFAULTS, Execution
from rnnmnist.config.schema import Config
from rnnmnist.data import batches
from rnnmnist.data.batches import BatchSource, BatchTransform, open_batches
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runtime.compilation import compile_seconds, enable_compilation_cache
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.mesh import device_put, over_seeds
from rnnmnist.training.optimizer import make_schedule
from rnnmnist.training.state import (
    Program,
    TrainState,
    abstract_state,
    create_state,
    to_trees,
)
from rnnmnist.training.step import (
    UpdateSums,
    apply_update,
    score_last_batch,
    train_range,
    train_steps,
)

BATCH_SIZE = 16
CONFIG = Config().replace(
    {
        "data.max_shift": 1,
        "model.hidden_size": 16,
        "train.batch_size": BATCH_SIZE,
        "train.num_steps": 150,
        "train.learning_rate": 0.03,
    }
)
EXAMPLES = random_examples(24)  # epochs end within batches


@pytest.fixture(autouse=True)
def chunk_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most calls of `train_range` take several chunks, or begin within one."""
    monkeypatch.setattr(batches, "CHUNK_UPDATES", 4)


class Start(NamedTuple):
    """A run before its first update."""

    program: Program
    state: TrainState  # can be donated
    source: BatchSource


@functools.cache
def first_state(config: Config, program: Program) -> TrainState:
    """The state before the first update."""
    return create_state(config, program)


def start(config: Config, mesh: Mesh) -> Start:
    program = Program.create(config, TASK, mesh)
    state = jax.tree.map(
        lambda leaf: device_put(np.array(leaf), leaf.sharding),
        first_state(config, program),
    )
    source = batches_of(EXAMPLES, config, mesh)
    return Start(program, state, source)


def advance(
    program: Program, state: TrainState, source: BatchSource, steps: int
) -> tuple[TrainState, UpdateSums]:
    step = int(state.step)
    state, sums, _ = train_range(state, source, step, step + steps, program=program)
    return state, sums


def state_sha256(state: TrainState) -> str:
    trees = (state.params, state.ema_params, state.opt_state)
    return params_sha256({"state": trees})


def batch_of(config: Config, step: int) -> Batch:
    """The batch of a step, drawn on one device, as NumPy arrays."""
    source = batches_of(EXAMPLES, config, mesh_of(1))
    return read_batch(source, BatchTransform.create(config, TASK), step)


@functools.partial(jax.jit, static_argnames="model")
def logits_by_step(
    model: SequenceClassifier, params: Params, inputs: jax.Array
) -> jax.Array:
    return jnp.asarray(model.apply({"params": params}, inputs, every_step=True))


def predict(config: Config, params: jax.Array, batch: Batch) -> np.ndarray:
    """Logits after every time step, [batch, time, classes], computed on one device."""
    model = model_of(config.model)
    (network,) = split_ensemble(jax.device_get(to_trees(params, model)))
    logits = logits_by_step(model, network, batch.inputs)
    return np.asarray(logits, np.float64)


def test_one_program_serves_every_length() -> None:
    enable_compilation_cache()  # from now on, the seconds are counted
    program, state, source = start(CONFIG, mesh_of(8))
    state, _ = advance(program, state, source, 1)
    before = compile_seconds()
    for steps in (5, 2, 1):
        state, _ = advance(program, state, source, steps)
    assert compile_seconds() == before
    assert int(state.step) == 9


@pytest.mark.parametrize(
    ("devices", "averaging"),
    [
        (8, 0.0),
        (1, 0.9),
        # CI compares the bits of optimized programs.
        pytest.param(8, 0.9, marks=pytest.mark.slow),
    ],
)
def test_the_result_does_not_depend_on_the_lengths_of_calls_or_the_placement(
    devices: int, averaging: float
) -> None:
    """Metrics are sums over the finished updates."""
    config = CONFIG.replace({"train.ema_decay": averaging})
    hashes, correct, losses = set(), set(), []
    for placement, cuts in (
        ("device", [12]),
        ("device", [5, 7]),
        ("host", [1] * 12),
        ("host", [11, 1]),
    ):
        program, state, _ = start(config, mesh_of(devices))
        placed = config.replace({"execution.placement": placement})
        parts = []
        with open_batches(EXAMPLES, placed, program.mesh) as source:
            for steps in cuts:
                state, sums = advance(program, state, source, steps)
                assert int(sums.updates) == steps
                parts.append(sums)
        assert int(state.step) == 12
        hashes.add(state_sha256(state))
        correct.add(sum(int(part.correct[0]) for part in parts))
        losses.append(sum(float(part.loss[0]) for part in parts))
    assert len(hashes) == len(correct) == 1
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_devices_agree_to_rounding() -> None:
    results = []
    for count in (1, 8):
        program, state, source = start(CONFIG, mesh_of(count))
        state, sums = advance(program, state, source, 10)
        results.append((float(sums.loss[0]), jax.device_get(state.params)))
    (alone, params), (together, same) = results
    assert together == pytest.approx(alone, rel=1e-5)
    np.testing.assert_allclose(same, params, atol=2e-4)


def test_training_reduces_the_loss(mesh: Mesh) -> None:
    program, state, source = start(CONFIG, mesh)
    state, before = advance(program, state, source, 1)
    state, _ = advance(program, state, source, 148)
    _, after = advance(program, state, source, 1)
    assert float(before.loss[0]) / BATCH_SIZE > 2
    assert float(after.loss[0]) / BATCH_SIZE < 1.8  # memorized noise


def test_a_nonfinite_update_is_rejected_and_its_chunk_is_not_scored(
    mesh: Mesh,
) -> None:
    program, state, source = start(CONFIG, mesh)
    state, sums, chunk = train_range(state, source, 0, 8, program=program)
    assert int(sums.updates) == 8
    assert chunk is not None
    assert int(chunk.first) == 4
    params = np.array(state.params)
    params[0, 3] = np.nan
    state = dataclasses.replace(state, params=device_put(params, over_seeds(mesh)))
    before = state_sha256(state)
    state, sums, chunk = train_range(state, source, 8, 18, program=program)
    assert int(state.step) == 8
    assert int(sums.updates) == 0
    assert float(sums.loss[0]) == 0
    assert not bool(sums.finite[0])
    assert not np.isfinite(float(sums.last_loss[0]))
    assert chunk is None
    assert state_sha256(state) == before


def test_the_program_has_no_host_transfers_and_one_all_reduce(mesh: Mesh) -> None:
    program, state, source = start(CONFIG, mesh)
    chunk = chunk_of(source, 0)
    lowered = train_steps.lower(state, chunk, jnp.int32(5), program=program)
    text = lowered.as_text()
    for word in ("callback", "infeed", "outfeed", "SendToHost", "RecvFromHost"):
        assert word not in text
    assert text.count("stablehlo.all_reduce") == 1


@pytest.mark.parametrize(
    ("platform", "precision"), [("tpu", "DEFAULT"), ("gpu", "HIGH")]
)
def test_an_accelerator_has_no_loops_over_rows_and_seeds(
    platform: str, precision: str
) -> None:
    """Lowered for it here."""
    config = CONFIG.replace(
        {
            "num_seeds": 3,
            "data.max_shift": 0,  # whose products have another precision
        }
    )
    how = DEFAULTS[platform]
    text = lowered_for("cuda" if platform == "gpu" else platform, config, how)
    assert text.count("stablehlo.while") == 1  # over the steps
    assert text.count("stablehlo.all_reduce") == 1
    assert set(precisions(text)) == {f"{precision}, {precision}"}


def test_no_product_has_a_lower_precision_than_set() -> None:
    """Those of distortions and of a loss after every time step included."""
    changes = {
        "execution.precision": "float32",
        "train.loss": "every_step",
        "data.max_rotation": 10.0,
        "data.elastic": 1.0,
    }
    found = precisions(lowered_for("tpu", CONFIG.replace(changes)))
    assert len(found) > 9
    assert set(found) == {"HIGHEST, HIGHEST"}


def lowered_for(
    platform: str, config: Config, execution: Execution | None = None
) -> str:
    """The training program, lowered for a platform that need not be present."""
    program = Program.create(config, TASK, mesh_of(1), execution)
    chunk = chunk_of(batches_of(EXAMPLES, config, program.mesh), 0)
    state = abstract_state(config, program)
    steps = jax.ShapeDtypeStruct((), jnp.int32)
    traced = train_steps.trace(state, chunk, steps, program=program)
    return str(traced.lower(lowering_platforms=(platform,)).as_text())


def precisions(text: str) -> list[str]:
    """The precision of every product of a program."""
    return re.findall(r"stablehlo.dot_general .* precision = \[(.*?)\]", text)


def test_the_last_batch_is_scored_with_the_average_after_it() -> None:
    config = CONFIG.replace({"train.ema_decay": 0.9})
    program, state, source = start(config, mesh_of(1))
    state, _ = advance(program, state, source, 3)
    loss, number = score_last_batch(state, chunk_of(source, 2), program=program)
    batch = batch_of(config, 2)
    logits = predict(config, state.evaluated_params, batch)[:, -1]
    chosen = logits[np.arange(BATCH_SIZE), batch.labels]
    losses = np.log(np.exp(logits).sum(axis=1)) - chosen
    assert int(number[0]) == (logits.argmax(axis=1) == batch.labels).sum()
    assert float(loss[0]) == pytest.approx(losses.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "smoothing", "devices"), [("every_step", 0.2, 8), ("last", 0.0, 1)]
)
def test_the_loss_is_a_weighted_mean_over_rows_with_smoothed_labels(
    loss: str, smoothing: float, devices: int
) -> None:
    """The weights grow with the square of the row, or only the last row counts."""
    config = CONFIG.replace({"train.loss": loss, "train.label_smoothing": smoothing})
    program, state, source = start(config, mesh_of(devices))
    batch = batch_of(config, 0)
    logits = predict(config, state.params, batch)
    assert logits.shape == (BATCH_SIZE, 28, 10)
    correct = (logits[:, -1].argmax(-1) == batch.labels).sum()
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = (1 - smoothing) * np.eye(10)[batch.labels] + smoothing / 10
    losses = -(logs * targets[:, None]).sum(-1)  # [batch, rows]
    rows = np.arange(1, 29)
    weights = rows**2 if loss == "every_step" else rows == 28
    expected = (losses * weights).sum() / weights.sum()
    state, sums = advance(program, state, source, 1)
    assert float(sums.loss[0]) == pytest.approx(expected, rel=1e-5)
    assert int(sums.correct[0]) == correct
    assert int(state.step) == 1


def test_averaging_does_not_change_the_trained_weights() -> None:
    mesh = mesh_of(1)
    program, averaging, source = start(CONFIG.replace({"train.ema_decay": 0.9}), mesh)
    other_program, plain, _ = start(CONFIG, mesh)
    expected = jax.device_get(plain.params)
    for count in range(8):
        averaging, _ = advance(program, averaging, source, 1)
        plain, _ = advance(other_program, plain, source, 1)
        weights = jax.device_get(plain.params)
        assert np.array_equal(averaging.params, weights)
        assert averaging.ema_params is averaging.evaluated_params
        rate = 1 - min(0.9, (1 + count) / (10 + count))
        expected = optax.incremental_update(weights, expected, rate)
        assert averaging.ema_params is not None
        np.testing.assert_allclose(averaging.ema_params, expected, atol=1e-6)
    assert not np.array_equal(averaging.evaluated_params, averaging.params)
    assert plain.evaluated_params is plain.params


@pytest.mark.parametrize(
    ("cell", "spared"),
    [
        ("lstm", set()),
        ("lru", {"nu_log", "theta_log", "gamma_log", "skip", "scale", "bias"}),
    ],
)
def test_weight_decay_spares_the_eigenvalues_of_linear_recurrences(
    cell: str, spared: set[str]
) -> None:
    """An update without a gradient shrinks the other weights in proportion."""
    settings = {"model.cell": cell, "model.hidden_size": 4, "train.weight_decay": 0.5}
    config = CONFIG.replace(settings)
    program = Program.create(config, TASK, mesh_of(1))
    zeros = functools.partial(jax.tree.map, lambda leaf: jnp.zeros_like(leaf))
    state = zeros(abstract_state(config, program))
    state = dataclasses.replace(state, params=state.params + 1)
    none = jnp.zeros(1)
    update = jax.jit(apply_update, static_argnames="program")
    state, _, _ = update(
        state, UpdateSums.zeros(1), none, none, zeros(state.params), program=program
    )
    decayed = 1 - 0.5 * float(make_schedule(config.train)(0))
    for path, leaf in jax.tree.leaves_with_path(to_trees(state.params, program.model)):
        kept = path[0].key != "head" and path[-1].key in spared
        np.testing.assert_allclose(leaf, 1 if kept else decayed, rtol=1e-6)
