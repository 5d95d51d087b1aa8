"""The training step: one program, reproducible bits, no non-finite updates.

Most tests share one configuration, on a mesh of one device and on one of eight, so that
two programs are compiled.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from support import mesh_of, random_examples

from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.config.schema import Config
from rnnmnist.data.batches import Batch, TrainingSplit
from rnnmnist.models.classifier import SequenceClassifier, make_model
from rnnmnist.runtime.mesh import device_put, replicated
from rnnmnist.training.loss import Objective
from rnnmnist.training.state import create_state
from rnnmnist.training.step import Metrics, score_last_batch, train_steps

BATCH_SIZE = 16
CONFIG = Config().replace(
    {
        "data.max_shift": 1,
        "model.hidden_size": 16,
        "train.batch_size": BATCH_SIZE,
        "train.num_steps": 400,
        "train.learning_rate": 0.02,
    }
)
EXAMPLES = random_examples(24)  # epochs end within batches


@functools.cache
def first_state(config: Config, mesh: Mesh) -> TrainState:
    """The state before the first update, on the host."""
    return jax.device_get(create_state(config, make_model(config.model), mesh))


def start(config: Config, mesh: Mesh) -> tuple[TrainState, TrainingSplit]:
    """A state that can be donated, and the training split."""
    state = jax.tree.map(
        lambda leaf: jax.device_put(leaf.copy(), replicated(mesh)),
        first_state(config, mesh),
    )
    return state, TrainingSplit.device_put(EXAMPLES, config, mesh)


def advance(
    state: TrainState, split: TrainingSplit, steps: int, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    return train_steps(
        state, split, device_put(np.int32(steps), replicated(mesh)), mesh=mesh
    )


def state_sha256(state: TrainState) -> str:
    return params_sha256({"params": state.params, "opt_state": state.opt_state})


@jax.jit
def whole_batch(split: TrainingSplit, step: jax.Array) -> Batch:
    return split.batch(step, jnp.int32(0), 1)


def batch_of(config: Config, step: int) -> Batch:
    """The batch of a step, drawn on one device, as NumPy arrays."""
    split = TrainingSplit.device_put(EXAMPLES, config, mesh_of(1))
    return jax.device_get(whole_batch(split, np.int32(step)))


@functools.partial(jax.jit, static_argnames="model")
def logits_by_row(
    model: SequenceClassifier, params: Any, images: jax.Array
) -> jax.Array:
    return jnp.asarray(model.apply({"params": params}, images, every_row=True))


def predict(config: Config, state: TrainState, batch: Batch) -> np.ndarray:
    """Logits after every row, [batch, rows, classes], computed on one device."""
    params = jax.device_get(state.params)
    logits = logits_by_row(make_model(config.model), params, batch.images)
    return np.asarray(logits, np.float64)


def test_one_trace_serves_every_length(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = []
    original = Objective.__call__

    def counting(*args: Any) -> tuple[jax.Array, jax.Array]:
        traces.append(1)
        return original(*args)

    monkeypatch.setattr(Objective, "__call__", counting)
    program: Any = train_steps
    program.clear_cache()
    state, split = start(CONFIG, mesh)
    for steps in (1, 5, 2, 1, 0):
        state, _ = advance(state, split, steps, mesh)
    assert int(state.step) == 9
    assert program._cache_size() == 1
    assert len(traces) <= 2  # jax may trace once more for shapes


@pytest.mark.parametrize(
    ("devices", "averaging"),
    [
        (8, 0.0),
        (1, 0.9),
        # CI compares the bits of optimized programs.
        pytest.param(8, 0.9, marks=pytest.mark.slow),
        pytest.param(1, 0.0, marks=pytest.mark.slow),
    ],
)
def test_the_result_does_not_depend_on_the_lengths_of_calls(
    devices: int, averaging: float
) -> None:
    mesh = mesh_of(devices)
    config = CONFIG.replace({"train.ema_decay": averaging})
    hashes = set()
    for cuts in ([12], [5, 7], [1] * 12, [11, 1]):
        state, split = start(config, mesh)
        for steps in cuts:
            state, _ = advance(state, split, steps, mesh)
        assert int(state.step) == 12
        hashes.add(state_sha256(state))
    assert len(hashes) == 1


def test_metrics_are_sums_over_the_finished_updates(mesh: Mesh) -> None:
    state, split = start(CONFIG, mesh)
    state, whole = advance(state, split, 6, mesh)
    state, split = start(CONFIG, mesh)
    parts = []
    for _ in range(6):
        state, metrics = advance(state, split, 1, mesh)
        parts.append(metrics)
    assert int(whole.examples) == 6 * BATCH_SIZE
    assert int(whole.correct) == sum(int(part.correct) for part in parts)
    total = sum(float(part.loss) for part in parts)
    assert float(whole.loss) == pytest.approx(total, rel=1e-5)


# CI only: two devices need one more program.
@pytest.mark.parametrize("devices", [8, pytest.param(2, marks=pytest.mark.slow)])
def test_devices_agree_to_rounding(devices: int) -> None:
    results = []
    for count in (1, devices):
        state, split = start(CONFIG, mesh_of(count))
        state, metrics = advance(state, split, 10, mesh_of(count))
        results.append((float(metrics.loss), jax.device_get(state.params)))
    (alone, params), (together, same) = results
    assert together == pytest.approx(alone, rel=1e-5)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_the_seed_determines_the_result() -> None:
    mesh = mesh_of(1)
    hashes = []
    for seed in (0, 0, 1):
        config = CONFIG.replace({"seed": seed})
        state = create_state(config, make_model(config.model), mesh)
        split = TrainingSplit.device_put(EXAMPLES, config, mesh)
        state, _ = advance(state, split, 3, mesh)
        hashes.append(params_sha256(state.params))
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_reduces_the_loss(mesh: Mesh) -> None:
    state, split = start(CONFIG, mesh)
    state, before = advance(state, split, 1, mesh)
    state, _ = advance(state, split, 398, mesh)
    _, after = advance(state, split, 1, mesh)
    assert float(before.loss) / BATCH_SIZE > 2
    assert float(after.loss) / BATCH_SIZE < 1  # memorized noise


def test_a_nonfinite_update_is_rejected(mesh: Mesh) -> None:
    state, split = start(CONFIG, mesh)
    state, _ = advance(state, split, 4, mesh)
    head = dict(state.params["head"])
    bias = np.array(head["bias"])
    bias[3] = np.nan
    head["bias"] = device_put(bias, replicated(mesh))
    state = state.replace(params=dict(state.params) | {"head": head})
    before = state_sha256(state)
    state, metrics = advance(state, split, 10, mesh)
    assert int(state.step) == 4
    assert int(metrics.examples) == 0
    assert float(metrics.loss) == 0
    assert not np.isfinite(float(metrics.rejected_loss))
    assert state_sha256(state) == before


def test_the_program_has_no_host_transfers_and_one_all_reduce(mesh: Mesh) -> None:
    state, split = start(CONFIG, mesh)
    lowered = train_steps.lower(state, split, jnp.int32(5), mesh=mesh)
    text = lowered.as_text()
    for word in ("callback", "infeed", "outfeed", "SendToHost", "RecvFromHost"):
        assert word not in text
    assert text.count("stablehlo.all_reduce") == 1


# CI only: one device, the simpler of the two programs.
@pytest.mark.parametrize("devices", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_the_last_batch_is_scored_with_the_parameters_after_it(devices: int) -> None:
    mesh = mesh_of(devices)
    state, split = start(CONFIG, mesh)
    state, _ = advance(state, split, 3, mesh)
    metrics = score_last_batch(state, split, mesh=mesh)
    batch = batch_of(CONFIG, 2)
    logits = predict(CONFIG, state, batch)[:, -1]
    chosen = logits[np.arange(BATCH_SIZE), batch.labels]
    losses = np.log(np.exp(logits).sum(axis=1)) - chosen
    assert int(metrics.examples) == BATCH_SIZE
    assert int(metrics.correct) == (logits.argmax(axis=1) == batch.labels).sum()
    assert float(metrics.loss) == pytest.approx(losses.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "smoothing", "recurrence", "devices"),
    [
        ("every_row", 0.2, "fused", 8),
        ("last", 0.2, "flax", 1),
        # CI only: the same formulas without smoothing or with the other recurrence.
        pytest.param("last", 0.2, "fused", 1, marks=pytest.mark.slow),
        pytest.param("every_row", 0.2, "fused", 1, marks=pytest.mark.slow),
        pytest.param("every_row", 0.0, "fused", 1, marks=pytest.mark.slow),
        pytest.param("every_row", 0.0, "fused", 8, marks=pytest.mark.slow),
        pytest.param("every_row", 0.0, "flax", 1, marks=pytest.mark.slow),
        pytest.param("every_row", 0.0, "flax", 8, marks=pytest.mark.slow),
    ],
)
def test_the_loss_is_a_weighted_mean_over_rows_with_smoothed_labels(
    loss: str, smoothing: float, recurrence: str, devices: int
) -> None:
    """The weights grow with the square of the row, or only the last row counts."""
    mesh = mesh_of(devices)
    config = CONFIG.replace(
        {
            "data.max_shift": 0,  # compiles faster
            "model.recurrence": recurrence,
            "train.loss": loss,
            "train.label_smoothing": smoothing,
        }
    )
    state, split = start(config, mesh)
    batch = batch_of(config, 0)
    logits = predict(config, state, batch)
    assert logits.shape == (BATCH_SIZE, 28, 10)
    correct = (logits[:, -1].argmax(-1) == batch.labels).sum()
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = (1 - smoothing) * np.eye(10)[batch.labels] + smoothing / 10
    losses = -(logs * targets[:, None]).sum(-1)  # [batch, rows]
    rows = np.arange(1, 29)
    weights = rows**2 if loss == "every_row" else rows == 28
    expected = (losses * weights).sum() / weights.sum()
    state, metrics = advance(state, split, 1, mesh)
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)
    assert int(metrics.correct) == correct
    assert int(state.step) == 1


def test_averaging_does_not_change_the_trained_weights() -> None:
    mesh = mesh_of(1)
    averaging, split = start(CONFIG.replace({"train.ema_decay": 0.9}), mesh)
    plain, _ = start(CONFIG, mesh)
    expected = jax.device_get(plain.params)
    for count in range(8):
        averaging, _ = advance(averaging, split, 1, mesh)
        plain, _ = advance(plain, split, 1, mesh)
        weights = jax.device_get(plain.params)
        assert params_sha256(averaging.opt_state.iterate) == params_sha256(weights)
        rate = 1 - min(0.9, (1 + count) / (10 + count))
        expected = optax.incremental_update(weights, expected, rate)
        for average, leaf in zip(
            jax.tree.leaves(averaging.params), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(average, leaf, atol=1e-6)
    assert params_sha256(averaging.params) != params_sha256(plain.params)
