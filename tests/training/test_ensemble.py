"""Ensembles: each member equals the network of a run with its seed alone."""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainer
from jax.sharding import Mesh
from support import (
    TASK,
    batches_of,
    chunk_of,
    fast_compilation,
    fit_small,
    learning_rates_of,
    mesh_of,
    poison,
    random_examples,
    run_config,
)

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.resolving import RunConfig
from rnnmnist.data.batches import Chunk
from rnnmnist.errors import UserError
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.loop import HostMetrics, finite_mask, nonfinite_error
from rnnmnist.training.state import (
    Program,
    TrainState,
    create_state,
)
from rnnmnist.training.step import train_chunk

SEEDS = 4
ENSEMBLE: dict[str, Any] = {"num_seeds": 2}
ENSEMBLE["split"] = ["train"] * 30 + ["validation"] * 5 + ["test"] * 5
CONFIG = run_config(
    {
        "seed": 5,
        "model.hidden_size": 8,
        "model.bidirectional": True,
        "train.batch_size": 16,
        "train.ema_decay": 0.9,
        "data.max_shift": 1,
    }
)
ENSEMBLE_CONFIG = CONFIG.replace({"num_seeds": SEEDS})


class Way(NamedTuple):
    """A grid of devices, and whether each device computes its members together."""

    mesh: Mesh
    together: bool

    def program(self, config: RunConfig) -> Program:
        execution = DEFAULTS["cpu"]._replace(vectorize_ensemble=self.together)
        return Program.create(config, TASK, self.mesh, execution)


class Trained(NamedTuple):
    """Members after a few steps."""

    program: Program
    state: TrainState
    chunk: Chunk
    metrics: HostMetrics  # on the host, of all updates of the chunk

    def members(self) -> list[Any]:
        """Returns each member's parameters, EMA and optimizer state."""
        trees = self.state.params, self.state.ema_params, self.state.opt_state
        return split_ensemble(jax.device_get(trees))


def train(config: RunConfig, way: Way, steps: int = 6) -> Trained:
    program = way.program(config)
    chunk = chunk_of(batches_of(random_examples(100), config, way.mesh), 0)
    state = create_state(config, program)
    learning_rates = learning_rates_of(chunk, config)
    first, end = jnp.int32(0), jnp.int32(steps)
    state, metrics = train_chunk(
        state, chunk, learning_rates, first, end, program=program
    )
    return Trained(program, state, chunk, jax.device_get(metrics))


@pytest.fixture(scope="module")
def singles() -> list[Trained]:
    alone = Way(mesh_of(1), together=False)
    with fast_compilation():
        return [train(CONFIG.replace({"seed": 5 + i}), alone) for i in range(SEEDS)]


@pytest.fixture(
    scope="module",
    params=[
        (1, 1, True),
        pytest.param((2, 4, False), marks=pytest.mark.slow),
    ],
    ids=str,
)
def way(request: pytest.FixtureRequest) -> Way:
    """Returns the way of an accelerator or of a CPU."""
    seeds, batch, together = request.param
    return Way(mesh_of(seeds * batch, seeds), together)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_each_member_equals_the_run_of_its_seed(
    singles: list[Trained], way: Way
) -> None:
    trained = train(ENSEMBLE_CONFIG, way)
    close = functools.partial(np.testing.assert_allclose, atol=2e-4)
    for index, network in enumerate(trained.members()):
        alone = singles[index]
        jax.tree.map(close, network, *alone.members())
        found, expected = trained.metrics, alone.metrics
        np.testing.assert_allclose(found["loss"][index], expected["loss"][0], rtol=1e-3)
        accuracies = found["accuracy"][index]
        np.testing.assert_array_equal(accuracies, expected["accuracy"][0])


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_nonfinite_member_is_identified(way: Way) -> None:
    """The other members stay finite."""
    trained = train(ENSEMBLE_CONFIG, way, 3)
    # Not in the averages, which are evaluated.
    state = trained.state._replace(params=poison(trained.state.params, 2))
    learning_rates = learning_rates_of(trained.chunk, ENSEMBLE_CONFIG)
    first, end = jnp.int32(3), jnp.int32(9)
    _, metrics = train_chunk(
        state, trained.chunk, learning_rates, first, end, program=trained.program
    )
    found = jax.device_get(metrics)
    expected = np.ones((SEEDS, len(learning_rates)), bool)
    expected[2, 3:9] = False
    np.testing.assert_array_equal(finite_mask(found), expected)
    error = nonfinite_error(ENSEMBLE_CONFIG, found, 3, 3)
    assert (
        f"step 4 produced non-finite values: for seed {ENSEMBLE_CONFIG.seeds[2]},"
        in str(error)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the workdir of a run with two seeds."""
    return fit_small(tmp_path_factory.mktemp("ensemble") / "run", **ENSEMBLE)


def test_an_ensemble_resumes_bit_for_bit(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary has the spread over members and the accuracy of the ensemble."""
    copied = trainer.copy_of(run, tmp_path / "run")
    trainer.cut_back(copied, 10)
    fit_small(copied, **ENSEMBLE | {"verbose": True})
    printed = capsys.readouterr().out
    assert "resuming from step 10\n" in printed
    assert "first seed 0" in printed
    correct = trainer.result(copied)["ensemble_correct"]
    summary = rf"^test .* ± .* over 2 seeds.*ensemble .* \({correct} of 5\)"
    assert re.search(summary, printed, re.MULTILINE)
    trainer.assert_same_end(copied, run, 20)
    trainer.assert_sealed(copied)
    with pytest.raises(UserError, match=r"num_seeds=3 \(checkpoint: 2\)"):
        fit_small(copied, **ENSEMBLE | {"num_seeds": 3})
