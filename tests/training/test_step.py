"""The training step: one program, reproducible bits, no non-finite updates.

The tests share two configurations, and compile one of them for one and eight devices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from support import (
    TASK,
    batches_of,
    mesh_of,
    poison,
    random_examples,
    read_batch,
    run_config,
)

from rnnmnist.config.resolving import RunConfig, import_functions
from rnnmnist.data import placement
from rnnmnist.data.batches import Batch, BatchTransform
from rnnmnist.data.placement import open_batches
from rnnmnist.models.parameters import abstract_params, params_sha256
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.loop import HostMetrics, finite_mask, train_to
from rnnmnist.training.optimizer import compute_learning_rate
from rnnmnist.training.state import Program, create_state

BATCH_SIZE = 16
CONFIG = run_config(
    {
        "data.max_shift": 1,
        "model.hidden_size": 16,
        "train.batch_size": BATCH_SIZE,
        "train.num_steps": 150,
        "train.learning_rate": 0.03,
    }
)
AVERAGED = CONFIG.replace(
    {"train.ema_decay": 0.9, "train.loss": "every_step", "train.label_smoothing": 0.2}
)
EXAMPLES = random_examples(24)  # epochs end within batches


@pytest.fixture(autouse=True)
def chunk_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens chunks, so that most calls need several chunks or start within one."""
    monkeypatch.setattr(placement, "CHUNK_UPDATES", 4)


class Training:
    """A run, and its state after some updates."""

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        self.config = config
        self.program = Program.create(config, TASK, mesh)
        self.state = create_state(config, self.program)
        self.step = 0
        self.source = batches_of(EXAMPLES, config, mesh)

    def advance(self, steps: int) -> HostMetrics:
        target = self.step + steps
        self.state, metrics = train_to(
            self.state,
            self.step,
            target,
            config=self.config.train,
            program=self.program,
            batches=self.source,
        )
        self.step = target
        return metrics

    def sha256(self) -> str:
        state = self.state
        trees = (state.params, state.ema_params, state.opt_state)
        return params_sha256({"state": trees})


def test_runs_that_differ_in_learning_rates_and_class_weights_share_a_program() -> None:
    program = Program.create(CONFIG, TASK, mesh_of(2))
    others = {
        "train.learning_rate": 1e-3,
        "train.schedule": "constant",
        "train.warmup_fraction": 0.5,
        "train.num_steps": 7,
        "train.log_every_steps": 3,
        "train.class_weight": "balanced",
        "seed": 3,
    }
    same = Program.create(CONFIG.replace(others), TASK, mesh_of(2))
    assert (hash(same), same) == (hash(program), program)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_lengths_of_calls_or_the_placement() -> None:
    """The metrics of all updates are equal, too."""
    hashes, correct, losses, mesh = set(), set(), [], mesh_of(8)
    for place, cuts in (
        ("device", [12]),
        ("device", [5, 7]),
        ("host", [1] * 12),
        ("host", [11, 1]),
    ):
        training = Training(AVERAGED, mesh)
        placed = AVERAGED.replace({"execution.placement": place})
        with open_batches(EXAMPLES, placed, mesh) as training.source:
            parts = [training.advance(steps) for steps in cuts]
        assert [part["loss"].shape for part in parts] == [(1, cut) for cut in cuts]
        hashes.add(training.sha256())
        correct.add(sum(float(part["accuracy"].sum()) for part in parts))
        losses.append(sum(float(part["loss"].sum()) for part in parts))
    assert len(hashes) == len(correct) == 1
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_no_chunk_follows_a_nonfinite_update() -> None:
    training = Training(AVERAGED, mesh_of(8))
    assert finite_mask(training.advance(8)).all()
    training.state = training.state._replace(params=poison(training.state.params, 0))
    metrics = training.advance(10)
    assert finite_mask(metrics).tolist() == [[False] * 4]  # `CHUNK_UPDATES`
    assert not np.isfinite(metrics["loss"]).any()


def test_the_metrics_of_an_update_use_the_parameters_before_it() -> None:
    training = Training(AVERAGED, mesh_of(8))
    objective = jax.jit(training.program.objective)
    source = batches_of(EXAMPLES, AVERAGED, mesh_of(1))
    transform = BatchTransform.create(AVERAGED, TASK)
    (network,) = split_ensemble(jax.device_get(training.state.params))
    _, sums = objective(network, read_batch(source, transform, 0))
    means = training.advance(1)
    loss = pytest.approx(float(sums["loss"]) / BATCH_SIZE, rel=1e-5)
    assert float(means["loss"][0, 0]) == loss
    assert float(means["accuracy"][0, 0]) == float(sums["accuracy"]) / BATCH_SIZE


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_ema_does_not_change_the_trained_weights() -> None:
    plain = Training(CONFIG, mesh_of(1))
    averaging = Training(CONFIG.replace({"train.ema_decay": 0.9}), mesh_of(1))
    # Copied, since the next update reuses the memory of the state.
    expected, _ = ravel_pytree(jax.tree.map(np.array, plain.state.params))
    for count in range(8):
        plain.advance(1)
        averaging.advance(1)
        trained, _ = ravel_pytree(plain.state.params)
        np.testing.assert_array_equal(ravel_pytree(averaging.state.params)[0], trained)
        rate = 1 - min(0.9, (1 + count) / (10 + count))
        expected = rate * trained + (1 - rate) * expected
        found, _ = ravel_pytree(averaging.state.evaluated_params)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert plain.state.evaluated_params is plain.state.params


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_weight_decay_spares_the_eigenvalues_of_linear_recurrences() -> None:
    """An update without a gradient shrinks all other weights in proportion."""
    spared = {"nu_log", "theta_log", "gamma_log", "skip", "scale", "bias"}
    settings = {"model.cell": "lru", "model.hidden_size": 4, "model.num_layers": 2}
    settings |= {"model.bidirectional": True, "train.weight_decay": 0.5}
    config = CONFIG.replace(settings)
    program = Program.create(config, TASK, mesh_of(1))
    abstract = abstract_params(program.model)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), abstract)
    optimizer = program.optimizer(0.1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    updated = optax.apply_updates(params, updates)
    for path, leaf in jax.tree.leaves_with_path(updated):
        kept = path[0].key != "head" and path[-1].key in spared
        np.testing.assert_allclose(leaf, 1 if kept else 1 - 0.5 * 0.1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_an_optax_optimizer_updates_as_in_a_plain_loop() -> None:
    """The test runs two updates of LAMB, which has a norm for each layer."""
    name = "optax:lamb,weight_decay=0.1"
    optimizer = functools.partial(optax.lamb, weight_decay=0.1)
    settings = {"train.clip_norm": 0, "train.optimizer": name, "data.max_shift": 0}
    config = import_functions(CONFIG.replace(settings))
    training = Training(config, mesh_of(2))
    (params,) = split_ensemble(jax.device_get(training.state.params))
    assert finite_mask(training.advance(2)).all()

    differentiate = jax.grad(training.program.objective, has_aux=True)
    source = batches_of(EXAMPLES, config, mesh_of(1))
    opt_state = optimizer(0.0).init(params)

    @jax.jit
    def update_alone(params: Any, opt_state: Any, batch: Batch, rate: Any) -> Any:
        sums, _ = differentiate(params, batch)
        grads = jax.tree.map(lambda leaf: leaf / BATCH_SIZE, sums)
        updates, opt_state = optimizer(rate).update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in range(2):
        batch = read_batch(source, training.program.transform, step)
        rate = compute_learning_rate(config.train, step)
        params, opt_state = update_alone(params, opt_state, batch, rate)
    (found,) = split_ensemble(training.state.params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, params)
