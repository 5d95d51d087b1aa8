"""Ensembles of seeds: each network equals that of a run with its seed alone."""

import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainer
from jax.sharding import Mesh
from support import (
    TASK,
    Once,
    batches_of,
    called,
    chunk_of,
    fast_compilation,
    mesh_of,
    output_of,
    poison,
    random_examples,
    rates_of,
    refused,
    run_config,
)

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.resolving import RunConfig
from rnnmnist.data.batches import Chunk
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoints import leaves_by_path, params_sha256
from rnnmnist.runtime.mesh import replicate, split_ensemble
from rnnmnist.training.loop import rejection_error
from rnnmnist.training.state import (
    Program,
    TrainState,
    create_state,
    to_items,
)
from rnnmnist.training.step import UpdateStats, train_chunk

SEEDS = 4
STEPS = 40
SMALL: tuple[str, ...] = ("--config.model.hidden_size=16",)
SMALL += ("--config.model.bidirectional=true", f"--config.train.num_steps={STEPS}")
ENSEMBLE = (*SMALL, "--config.num_seeds=3")
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
NETWORKS = CONFIG.replace({"num_seeds": SEEDS})


class Way(NamedTuple):
    """A grid of devices, and whether each computes its networks together."""

    mesh: Mesh
    together: bool

    def program(self, config: RunConfig) -> Program:
        execution = DEFAULTS["cpu"]._replace(vectorize_seeds=self.together)
        return Program.create(config, TASK, self.mesh, execution)


class Trained(NamedTuple):
    """Networks after a few steps."""

    program: Program
    state: TrainState
    chunk: Chunk
    stats: UpdateStats  # on the host

    def networks(self) -> list[Any]:
        """The parameters, their averages and the optimizer's state of each network."""
        trees = self.state.params, self.state.ema_params, self.state.opt_state
        return split_ensemble(jax.device_get(trees))


def train(config: RunConfig, way: Way, steps: int = 6) -> Trained:
    program = way.program(config)
    chunk = chunk_of(batches_of(random_examples(100), config, way.mesh), 0)
    state = create_state(config, program)
    rates = rates_of(chunk, config)
    state, stats = train_chunk(state, chunk, rates, jnp.int32(steps), program=program)
    return Trained(program, state, chunk, jax.device_get(stats))


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
    """As on an accelerator or on a CPU."""
    seeds, batch, together = request.param
    return Way(mesh_of(seeds * batch, seeds), together)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_each_network_equals_that_of_its_seed_alone(
    singles: list[Trained], way: Way
) -> None:
    trained = train(NETWORKS, way)
    program, state, _, stats = trained
    assert np.shape(state.step) == ()  # one step for all
    assert int(state.step) == stats.is_applied.sum() == 6
    close = functools.partial(np.testing.assert_allclose, atol=2e-4)
    for index, network in enumerate(trained.networks()):
        alone = singles[index]
        jax.tree.map(close, network, *alone.networks())
        losses, correct = stats.scores
        loss_alone, correct_alone = alone.stats.scores
        np.testing.assert_allclose(losses[:, index], loss_alone[:, 0], rtol=1e-3)
        np.testing.assert_array_equal(correct[:, index], correct_alone[:, 0])
    saved = replicate(to_items(state), program.mesh)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(saved))
    networks = split_ensemble(jax.device_get(saved["params"]))
    assert len({params_sha256(params) for params in networks}) == SEEDS


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_one_nonfinite_network_stops_all_and_is_identified(way: Way) -> None:
    trained = train(NETWORKS, way, 3)
    # Not in the averages, which are evaluated.
    state = trained.state._replace(params=poison(trained.state.params, 2))
    before = trained._replace(state=state).networks()
    rates = rates_of(trained.chunk, NETWORKS)
    state, stats = train_chunk(
        state, trained.chunk, rates, jnp.int32(9), program=trained.program
    )
    assert int(state.step) == 3
    assert not stats.is_applied.any()
    np.testing.assert_array_equal(stats.is_finite[0], [True, True, False, True])
    assert not np.isfinite(stats.scores.loss[0, 2])
    rejected = rejection_error(NETWORKS, jax.device_get(stats), 3, Path())
    assert f" of seed {NETWORKS.seeds[2]} " in str(rejected)
    after = trained._replace(state=state).networks()
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.fixture(scope="session")
def run(once: Once, data_dir: Path) -> Path:
    """The workdir of a run of three seeds; its output is in `../printed.txt`."""

    def train(folder: Path) -> None:
        args = trainer.arguments(folder / "run", data_dir, *ENSEMBLE)
        finished = called("main", *args)
        assert finished.stderr == ""
        (folder / "printed.txt").write_text(output_of(finished))

    return once("ensemble", train) / "run"


def test_files_hold_the_results_of_each_network(run: Path) -> None:
    for line in trainer.metrics(run):
        assert [network["seed"] for network in line["members"]] == [0, 1, 2]
    result = trainer.result(run)
    networks = result["members"]
    assert result["correct"] == sum(network["correct"] for network in networks)
    assert result["correct"] / 1500 == result["accuracy"]
    assert result["examples"] == networks[0]["examples"] == 500
    assert result["num_parameters"] == networks[0]["num_parameters"]
    assert sum(map(sum, result["confusion"])) == 1500
    (path,) = (run / "evaluation").iterdir()
    assert path.name == "test-40.json"
    printed = (run.parent / "printed.txt").read_text()
    assert "seeds 0 to 2" in printed
    ensemble = rf"ensemble .* \({result['ensemble_correct']} of 500\)"
    assert re.search(f"^test .* ± .* over 3 seeds.*{ensemble}", printed, re.MULTILINE)


def shapes(tree: Any, without: int = 0) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path, without some leading axes."""
    return {name: tuple(leaf.shape)[without:] for name, leaf in leaves_by_path(tree)}


def test_a_checkpoint_has_flaxs_names_and_a_leading_ensemble_axis(run: Path) -> None:
    params = checkpoints.read_arrays(run, STEPS, "params")
    state = checkpoints.read_arrays(run, STEPS, "state")
    leaves = [
        leaf for name, leaf in leaves_by_path((params, state)) if name != "1/step"
    ]
    assert {len(leaf) for leaf in leaves} == {3}

    carry, row = (jnp.zeros((1, 16)),) * 2, jnp.zeros((1, 28))
    cell = nn.OptimizedLSTMCell(16)
    variables = jax.eval_shape(cell.init, jax.random.key(0), carry, row)
    expected = {f"cell/{k}": shape for k, shape in shapes(variables["params"]).items()}
    expected |= {f"backward_{name}": shape for name, shape in expected.items()}
    expected |= {"head/kernel": (2 * 16, 10), "head/bias": (10,)}
    assert expected["cell/hf/bias"] == (16,)
    assert shapes(params, without=1) == expected
    assert state["step"].shape == ()
    found = {
        re.sub("^opt_state/.*/(mu|nu|count)", r"\1", name): shape
        for name, shape in shapes(state, without=1).items()
    }
    # Adam's moments are vectors of all parameters.
    number = sum(map(math.prod, expected.values()))
    assert found == {"step": (), "count": (), "mu": (number,), "nu": (number,)} | {
        f"trained_params/{name}": shape for name, shape in expected.items()
    }


def test_an_ensemble_resumes_bit_for_bit_with_as_many_seeds(
    run: Path, tmp_path: Path, data_dir: Path
) -> None:
    copied = trainer.copy_of(run, tmp_path / "run")
    trainer.cut_back(copied, 20)
    printed = trainer.run(copied, data_dir, *ENSEMBLE)
    assert "resuming from step 20\n" in printed
    trainer.assert_same_end(copied, run, STEPS)
    trainer.assert_sealed(copied)
    args = trainer.arguments(copied, data_dir, *SMALL, "--config.num_seeds=2")
    assert "num_seeds=2 (checkpoint: 3)" in refused("main", *args)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_two_processes_train_a_seed_each(
    unoptimized: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    two = (*SMALL, "--config.num_seeds=2", "--config.execution.num_devices=2")
    pair = trainer.Run(tmp_path / "pair", data_dir, unoptimized)
    ended = trainer.outcomes(pair.start_together(*two))
    assert [code for code, _, _ in ended] == [0, 0], ended
    trainer.run(tmp_path / "alone", data_dir, *two)
    trainer.assert_same_end(pair.workdir, tmp_path / "alone", STEPS)
