"""A stack of seeds: each member is the network that a run of its own would give."""

import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from support import Command, mesh_of, random_examples

from rnnmnist import step as step_lib
from rnnmnist.batches import TrainingSplit
from rnnmnist.config import Config
from rnnmnist.digests import params_sha256
from rnnmnist.errors import UserError
from rnnmnist.evaluation import EvaluationSplit, evaluate, kept_result
from rnnmnist.intervals import t_interval
from rnnmnist.mesh import gathered, make_mesh
from rnnmnist.model import make_model, unstack
from rnnmnist.step import (
    Metrics,
    count_batches,
    create_state,
    score_last_batch,
    train_steps,
)
from rnnmnist.train import over_members

SEEDS = 4
STACK = "--config.num_seeds=3"


def grid(seeds: int, batch: int) -> Mesh:
    mesh = mesh_of(seeds * batch)
    return Mesh(mesh.devices.reshape(seeds, batch), mesh.axis_names)


def trained(
    config: Config, mesh: Mesh, steps: int = 6
) -> tuple[TrainState, TrainingSplit, Metrics]:
    state = create_state(config, make_model(config.model), mesh)
    split = TrainingSplit.put(random_examples(100), config, mesh)
    state, metrics = train_steps(state, split, jnp.int32(steps), mesh=mesh)
    return state, split, jax.device_get(metrics)


@pytest.fixture(scope="module")
def singles() -> list[tuple[TrainState, TrainingSplit, Metrics]]:
    return [trained(a_run(seed=5 + i), mesh_of(1)) for i in range(SEEDS)]


def a_run(**changes: Any) -> Config:
    settings = {
        "model.hidden_size": 16,
        "train.batch_size": 32,
        "train.ema_decay": 0.9,
        "data.max_shift": 1,
    }
    return Config().replace(settings | changes)


@pytest.fixture(
    params=[
        (2, 4, True),
        # What takes long to compile for more of them is for CI.
        pytest.param((1, 1, True), marks=pytest.mark.slow),
        pytest.param((2, 4, False), marks=pytest.mark.slow),
        pytest.param((1, 1, False), marks=pytest.mark.exhaustive),
        pytest.param((4, 1, False), marks=pytest.mark.exhaustive),
    ],
    ids=lambda way: f"{way[0]}x{way[1]} {'at once' if way[2] else 'one by one'}",
)
def mesh(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mesh]:
    """A grid of devices, whose members are computed as on an accelerator or a CPU."""
    seeds, batch, at_once = request.param
    monkeypatch.setattr(step_lib, "at_once", lambda: at_once)
    programs = (train_steps, score_last_batch, count_batches)
    for program in programs:
        program.clear_cache()
    yield grid(seeds, batch)
    for program in programs:
        program.clear_cache()


def test_a_member_is_the_network_of_its_seed(
    singles: list[tuple[TrainState, TrainingSplit, Metrics]], mesh: Mesh
) -> None:
    config = a_run(seed=5, num_seeds=SEEDS)
    state, split, metrics = trained(config, mesh)
    assert state.step.shape == ()  # one step for all
    assert int(state.step) == 6
    assert int(metrics.examples) == 6 * 32
    last = jax.device_get(score_last_batch(state, split, mesh=mesh))
    everywhere = gathered(state, mesh)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(everywhere))
    stacked = (everywhere.params, everywhere.opt_state)
    for index, (single, its_split, its_metrics) in enumerate(singles):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
        for a, b in zip(
            jax.tree.leaves(own),
            jax.tree.leaves((single.params, single.opt_state)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=2e-4)
        assert metrics.loss[index] == pytest.approx(float(its_metrics.loss), rel=1e-5)
        assert metrics.correct[index] == its_metrics.correct
        its_last = score_last_batch(single, its_split, mesh=mesh_of(1))
        assert last.loss[index] == pytest.approx(float(its_last.loss), rel=1e-3)
    assert len({params_sha256(params) for params in unstack(everywhere.params)}) == 4


def test_one_member_that_is_not_finite_stops_all_and_is_known(mesh: Mesh) -> None:
    config = a_run(num_seeds=SEEDS, **{"train.ema_decay": 0.0})
    state, split, _ = trained(config, mesh, 3)
    bias = state.params["readout"]["bias"]
    poisoned = jax.device_put(bias.at[2, 7].set(jnp.inf), bias.sharding)
    readout = dict(state.params["readout"]) | {"bias": poisoned}
    state = state.replace(params=dict(state.params) | {"readout": readout})
    before = params_sha256((state.params, state.opt_state))  # type: ignore[arg-type]
    state, metrics = train_steps(state, split, jnp.int32(9), mesh=mesh)
    metrics = jax.device_get(metrics)
    assert int(state.step) == 3
    assert int(metrics.examples) == 0
    np.testing.assert_array_equal(metrics.fault, [False, False, True, False])
    assert not np.isfinite(metrics.fault_loss[2])
    after = params_sha256((state.params, state.opt_state))  # type: ignore[arg-type]
    assert after == before


def test_a_stack_is_scored_as_its_members_are(mesh: Mesh) -> None:
    config = a_run(num_seeds=SEEDS)
    model = make_model(config.model)
    params = create_state(config, model, mesh).params
    examples = random_examples(137)
    found = evaluate(model, params, EvaluationSplit.put(examples, mesh, 10))
    alone = EvaluationSplit.put(examples, mesh_of(1))
    networks = unstack(jax.device_get(params))
    for result, network in zip(found, networks, strict=True):
        (expected,) = evaluate(model, network, alone)
        assert result.confusion == expected.confusion
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)


def test_seeds_are_spread_over_devices_before_the_batch_is() -> None:
    for batch, devices, seeds, shape in (
        (128, None, 8, (8, 1)),
        (128, None, 2, (2, 4)),
        (128, None, 3, (3, 2)),
        (7, None, 5, (5, 1)),
        (7, None, 11, (1, 7)),
        (128, 4, 2, (2, 2)),
        (128, None, 1, (1, 8)),
    ):
        mesh = make_mesh(batch, devices, seeds)
        assert tuple(mesh.shape.items()) == (("seeds", shape[0]), ("batch", shape[1]))
    line = "num_seeds=3 times one of train.batch_size=4, not 5; 4 would do"
    with pytest.raises(UserError, match=line):
        make_mesh(4, 5, 3)


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.7062), (3, 4.3027), (8, 2.3646), (1000, 1.9623)]
)
def test_intervals_over_seeds_are_students(count: int, quantile: float) -> None:
    low, high = t_interval(0.9, 0.01, count)
    half = quantile * 0.01 / math.sqrt(count)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=1e-6)


def test_an_interval_of_an_accuracy_stays_one() -> None:
    assert t_interval(0.99, 0.02, 2) == (pytest.approx(0.8103, abs=1e-4), 1.0)
    assert t_interval(0.3, 0.3, 2)[0] == 0.0


def test_equal_counts_tie_however_the_members_share_them() -> None:
    config = Config(num_seeds=2)
    for counts in ([4890, 5001], [4891, 5000], [4945, 4946], [9891, 0]):
        line = over_members(config, [1.0, 1.0], counts, 5000)
        assert line["accuracy"] == 9891 / 10_000
        assert line["correct"] == 9891
        assert [member["correct"] for member in line["members"]] == counts


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, command: Command, data_dir: Path
) -> tuple[Path, str]:
    """The run of a stack, and what it said."""
    workdir = tmp_path_factory.mktemp("stack") / "run"
    finished = command("main", *runs.words(workdir, data_dir, STACK))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return workdir, finished.stdout


def test_files_say_what_each_member_did(stack: tuple[Path, str]) -> None:
    workdir, said = stack
    for line in runs.metrics(workdir):
        assert [member["seed"] for member in line["members"]] == [0, 1, 2]
        for key in ("loss", "accuracy"):
            mean = statistics.fmean(member[key] for member in line["members"])
            assert line[key] == pytest.approx(mean)
    (path,) = (workdir / "evaluation").iterdir()
    document = json.loads(path.read_text())
    members = document["members"]
    accuracies = [member["accuracy"] for member in members]
    assert document["correct"] == sum(member["correct"] for member in members)
    assert document["examples"] == members[0]["examples"] == 500
    assert document["accuracy"] == document["accuracy_mean"]
    assert document["accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
    assert document["accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
    assert sum(map(sum, document["confusion"])) == 1500
    assert document["num_parameters"] == members[0]["num_parameters"]
    for member in members:
        assert sum(map(sum, member["confusion"])) == 500
        assert document.keys() - member.keys() == {
            "members",
            "accuracy_mean",
            "accuracy_std",
            "accuracy_mean_interval",
        }
    assert kept_result(path, document["params_sha256"]) == document
    changed = [members[0] | {"correct": 1}, *members[1:]]
    path.write_text(json.dumps(document | {"members": changed}))
    assert kept_result(path, document["params_sha256"]) is None
    path.write_text(json.dumps(document))
    assert "seeds 0 to 2" in said
    (line,) = [line for line in said.splitlines() if line.startswith("test ")]
    assert "± " in line
    assert "over 3 seeds" in line


def test_single_runs_end_as_the_members_did(
    stack: tuple[Path, str], command: Command, data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "single"
    words = runs.words(workdir, data_dir, "--config.seed=2")
    finished = command("main", *words)
    assert finished.returncode == 0, finished.stderr
    assert "±" not in finished.stdout  # no spread over one seed
    single = runs.metrics(workdir)
    member = [
        (line["step"], line["split"], line["members"][2])
        for line in runs.metrics(stack[0])
    ]
    for a, (step, split, b) in zip(single, member, strict=True):
        assert (a["step"], a["split"], b["seed"]) == (step, split, 2)
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.03)


def test_a_stack_resumes_to_the_same_bits_and_is_verified_and_evaluated(
    stack: tuple[Path, str], command: Command, data_dir: Path, tmp_path: Path
) -> None:
    workdir = runs.copy_of(stack[0], tmp_path / "run")
    runs.cut_back(workdir, 100)
    finished = command("main", *runs.words(workdir, data_dir, STACK))
    assert "resuming from step 100\n" in finished.stdout
    runs.assert_same_end(workdir, stack[0])
    assert command("verify", f"--workdir={workdir}").returncode == 0
    evaluated = command("evaluate", f"--workdir={workdir}")
    assert evaluated.returncode == 0, evaluated.stderr
    runs.assert_same_end(workdir, stack[0])
    for seed in range(3):
        assert re.search(rf"^seed {seed}: .* of 500; 95 %", evaluated.stdout, re.M)
    other = command("main", *runs.words(workdir, data_dir, "--config.num_seeds=2"))
    assert other.returncode == 2
    assert "num_seeds=2 (checkpoint: 3)" in other.stderr


def test_a_stack_has_a_report(
    stack: tuple[Path, str], command: Command, tmp_path: Path
) -> None:
    workdir = runs.copy_of(stack[0], tmp_path / "run")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "note": "of somebody else"}\n')
    finished = command("report", f"--workdir={workdir}")
    assert (finished.returncode, finished.stderr) == (0, "")
    page = (workdir / "report" / "index.html").read_text()
    (path,) = (workdir / "evaluation").iterdir()
    document = json.loads(path.read_text())
    assert f"{100 * document['accuracy_mean']:.2f}" in page
    for member in document["members"]:
        assert f"{member['correct']} of 500" in page.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.slow
def test_two_processes_train_a_seed_each(
    environment: dict[str, str], command: Command, data_dir: Path, tmp_path: Path
) -> None:
    two = ("--config.num_seeds=2", "--config.train.num_devices=2")
    words = runs.words(tmp_path / "pair", data_dir, *two)
    ended = runs.outcomes(runs.start_together(environment, [words] * 2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    alone = command("main", *runs.words(tmp_path / "alone", data_dir, *two))
    assert alone.returncode == 0, alone.stderr
    runs.assert_same_end(tmp_path / "pair", tmp_path / "alone")


def test_every_reading_of_the_test_split_is_logged(
    stack: tuple[Path, str], command: Command, data_dir: Path, tmp_path: Path
) -> None:
    workdir = runs.copy_of(stack[0], tmp_path / "run")
    log = workdir / "test_readings.jsonl"

    def readers() -> list[str]:
        return [json.loads(line)["command"] for line in log.read_text().splitlines()]

    assert readers() == ["main"]  # once, for the checkpoint that validation chose
    assert command("main", *runs.words(workdir, data_dir, STACK)).returncode == 0
    assert readers() == ["main"]  # a complete run reads nothing again
    for split in ("validation", "test"):
        command("evaluate", f"--workdir={workdir}", f"--split={split}")
    assert readers() == ["main", "evaluate"]
    (line,) = [json.loads(line) for line in log.read_text().splitlines()][1:]
    (path,) = (workdir / "evaluation").glob("test-*.json")
    document = json.loads(path.read_text())
    assert (line["step"], line["params_sha256"]) == (
        document["step"],
        document["params_sha256"],
    )
    log.unlink()
    log.mkdir()  # not to be written, even by root
    path.unlink()
    for name in ("evaluate", "report"):
        finished = command(name, f"--workdir={workdir}")
        assert finished.returncode == 1
        (text,) = finished.stderr.splitlines()
        assert "error: the reading of the test split cannot be written" in text
    assert not path.exists()  # what cannot be logged is not read
