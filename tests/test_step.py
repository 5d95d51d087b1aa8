"""Training: one program, the same bits however it is cut, and nothing unfinite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from support import mesh_of, random_examples

from rnnmnist.batches import Batch, TrainingSplit
from rnnmnist.config import Config
from rnnmnist.digests import params_sha256
from rnnmnist.model import make_model
from rnnmnist.objective import Objective
from rnnmnist.step import Metrics, create_state, score_last_batch, train_steps


def start(config: Config, mesh: Mesh) -> tuple[TrainState, TrainingSplit]:
    state = create_state(config, make_model(config.model), mesh)
    return state, TrainingSplit.put(random_examples(100), config, mesh)


def advance(
    state: TrainState, split: TrainingSplit, steps: int, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    return train_steps(state, split, jnp.int32(steps), mesh=mesh)


def answers(
    config: Config, state: TrainState, batch: Batch, every_row: bool = False
) -> np.ndarray:
    model = make_model(config.model)
    logits = model.apply({"params": state.params}, batch.images, every_row=every_row)
    return np.asarray(logits)


def test_one_trace_serves_every_length(
    small: Config, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = []
    honest = Objective.__call__
    monkeypatch.setattr(
        Objective, "__call__", lambda *args: traces.append(1) or honest(*args)
    )
    train_steps.clear_cache()
    state, split = start(small, mesh)
    for steps in (1, 5, 2, 1, 0):
        state, _ = advance(state, split, steps, mesh)
    assert int(state.step) == 9
    assert train_steps._cache_size() == 1
    assert len(traces) <= 2  # jax may trace a function for its shapes once more


def test_the_same_bits_however_the_steps_are_cut(small: Config, mesh: Mesh) -> None:
    averaging = 0.9 if mesh.size > 1 else 0.0  # with and without, each compiled once
    small = small.replace({"train.ema_decay": averaging})
    hashes = set()
    for cuts in ([12], [5, 7], [1] * 12, [11, 1]):
        state, split = start(small, mesh)
        for steps in cuts:
            state, _ = advance(state, split, steps, mesh)
        leaves = (state.params, state.opt_state, state.step)
        hashes.add(params_sha256(leaves))  # type: ignore[arg-type]
    assert len(hashes) == 1


def test_metrics_are_sums_over_the_finished_updates(small: Config, mesh: Mesh) -> None:
    state, split = start(small, mesh)
    state, whole = advance(state, split, 6, mesh)
    state, split = start(small, mesh)
    parts = []
    for _ in range(6):
        state, metrics = advance(state, split, 1, mesh)
        parts.append(metrics)
    assert int(whole.examples) == 6 * 32
    assert int(whole.correct) == sum(int(part.correct) for part in parts)
    total = sum(float(part.loss) for part in parts)
    assert float(whole.loss) == pytest.approx(total, rel=1e-5)


def test_devices_agree_to_rounding(small: Config) -> None:
    results = []
    for count in (1, 2, 8):
        state, split = start(small, mesh_of(count))
        state, metrics = advance(state, split, 10, mesh_of(count))
        results.append((float(metrics.loss), jax.device_get(state.params)))
    for loss, params in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for a, b in zip(
            jax.tree.leaves(params), jax.tree.leaves(results[0][1]), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_seed_decides_everything(small: Config) -> None:
    hashes = []
    for seed in (0, 0, 1):
        state, split = start(small.replace({"seed": seed}), mesh_of(1))
        state, _ = advance(state, split, 3, mesh_of(1))
        hashes.append(params_sha256(state.params))
    assert hashes[0] == hashes[1] != hashes[2]


def test_it_learns(small: Config, mesh: Mesh) -> None:
    config = small.replace({"data.max_shift": 0, "train.num_steps": 400})
    state, split = start(config, mesh)
    _, before = advance(state, split, 1, mesh)
    state, split = start(config, mesh)
    state, _ = advance(state, split, 399, mesh)
    _, after = advance(state, split, 1, mesh)
    assert float(before.loss) / 32 > 2
    assert float(after.loss) / 32 < 1  # noise, learnt by heart


def test_an_update_that_is_not_finite_is_not_applied(small: Config, mesh: Mesh) -> None:
    state, split = start(small, mesh)
    state, _ = advance(state, split, 4, mesh)
    poisoned = dict(state.params) | {
        "readout": dict(state.params["readout"])
        | {"bias": state.params["readout"]["bias"].at[3].set(jnp.nan)}
    }
    state = state.replace(params=poisoned)
    before = params_sha256((state.params, state.opt_state))  # type: ignore[arg-type]
    state, metrics = advance(state, split, 10, mesh)
    assert int(state.step) == 4
    assert int(metrics.examples) == 0
    assert float(metrics.loss) == 0
    assert not np.isfinite(float(metrics.fault_loss))
    after = params_sha256((state.params, state.opt_state))  # type: ignore[arg-type]
    assert after == before


def test_nothing_in_the_program_goes_to_the_host(small: Config, mesh: Mesh) -> None:
    state, split = start(small, mesh)
    lowered = train_steps.lower(state, split, jnp.int32(5), mesh=mesh)
    text = lowered.as_text()
    for word in ("callback", "infeed", "outfeed", "SendToHost", "RecvFromHost"):
        assert word not in text
    assert text.count("stablehlo.all_reduce") == 1  # and the devices meet but once


def test_the_last_batch_is_scored_with_the_parameters_after_it(
    small: Config, mesh: Mesh
) -> None:
    state, split = start(small, mesh)
    state, _ = advance(state, split, 3, mesh)
    metrics = score_last_batch(state, split, mesh=mesh)
    batch = split.batch(jnp.int32(2), jnp.int32(0), 1)
    logits = answers(small, state, batch)
    chosen = logits[np.arange(32), np.asarray(batch.labels)]
    losses = np.log(np.exp(logits).sum(axis=1)) - chosen
    assert int(metrics.examples) == 32
    assert int(metrics.correct) == (logits.argmax(axis=1) == batch.labels).sum()
    assert float(metrics.loss) == pytest.approx(losses.sum(), rel=1e-5)


@pytest.mark.parametrize("recurrence", ["fused", "flax"])
def test_the_loss_of_every_row_is_a_mean_that_rises_with_the_row(
    recurrence: str, small: Config, mesh: Mesh
) -> None:
    names = {"train.loss": "every_row", "model.recurrence": recurrence}
    config = small.replace(names)
    state, split = start(config, mesh)
    batch = split.batch(jnp.int32(0), jnp.int32(0), 1)
    logits = answers(config, state, batch, every_row=True)
    assert logits.shape == (32, 28, 10)
    labels = np.asarray(batch.labels)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = -np.log(shares[np.arange(32), :, labels])  # [batch, rows]
    weights = np.arange(1, 29) ** 2
    expected = (losses * weights).sum() / weights.sum()
    right = (logits[:, -1].argmax(-1) == labels).sum()
    state, metrics = advance(state, split, 1, mesh)
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)
    assert int(metrics.correct) == right
    assert int(state.step) == 1


@pytest.mark.parametrize("loss", ["last", "every_row"])
def test_a_smoothed_label_is_shared_by_all_classes(loss: str, small: Config) -> None:
    mesh = mesh_of(1)
    config = small.replace({"train.loss": loss, "train.label_smoothing": 0.2})
    state, split = start(config, mesh)
    batch = split.batch(jnp.int32(0), jnp.int32(0), 1)
    logits = answers(config, state, batch, every_row=True).astype(float)
    weights = np.arange(1.0, 29) ** 2 if loss == "every_row" else np.arange(28) == 27
    targets = 0.8 * np.eye(10)[np.asarray(batch.labels)] + 0.02
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -(logs * targets[:, None]).sum(-1)  # [batch, rows]
    _, metrics = advance(state, split, 1, mesh)
    expected = (losses * weights).sum() / weights.sum()
    assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)


def test_an_average_is_of_the_very_weights_that_a_run_without_one_has(
    small: Config,
) -> None:
    mesh = mesh_of(1)
    averaging, split = start(small.replace({"train.ema_decay": 0.7}), mesh)
    plain, _ = start(small, mesh)
    expected = jax.device_get(plain.params)
    for count in range(8):
        averaging, _ = advance(averaging, split, 1, mesh)
        plain, _ = advance(plain, split, 1, mesh)
        weights = jax.device_get(plain.params)
        assert params_sha256(averaging.opt_state.iterate) == params_sha256(weights)
        share = 1 - min(0.7, (1 + count) / (10 + count))
        expected = optax.incremental_update(weights, expected, share)
        for average, leaf in zip(
            jax.tree.leaves(averaging.params), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(average, leaf, atol=1e-6)
    assert params_sha256(averaging.params) != params_sha256(plain.params)
