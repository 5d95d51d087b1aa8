"""Ensembles of seeds: each network equals that of a run with its seed alone."""

import contextlib
import dataclasses
import io
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
import trainer
from jax.sharding import Mesh
from support import (
    ROWS,
    TASK,
    Command,
    Once,
    batches_of,
    called,
    chunk_of,
    fast_compilation,
    mesh_of,
    random_examples,
    refused,
)

from rnnmnist import evaluate as evaluate_command
from rnnmnist import main, report, verify
from rnnmnist.config.platforms import DEFAULTS, Execution
from rnnmnist.config.schema import Config
from rnnmnist.data.batches import Chunk
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import score_logits, t_interval
from rnnmnist.evaluation.predictions import predict_logits
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checksums import named_leaves, params_sha256
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.results import Scores, read_result
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.mesh import device_put, make_mesh
from rnnmnist.training.state import (
    Program,
    TrainState,
    create_state,
    evaluated_trees,
    saved_arrays,
)
from rnnmnist.training.step import (
    UpdateSums,
    score_last_batch,
    train_steps,
)

SEEDS = 4
STEPS = 40
SMALL = ("--config.model.hidden_size=16", f"--config.train.num_steps={STEPS}")
ENSEMBLE = (*SMALL, "--config.num_seeds=3")
ALONE = "--num_processes=1"  # required in a process that has initialized jax


class Run(NamedTuple):
    """A run of three seeds."""

    workdir: Path
    stdout: str


class Trained(NamedTuple):
    """Networks after a few steps."""

    program: Program
    state: TrainState
    chunk: Chunk
    sums: UpdateSums  # on the host


class Way(NamedTuple):
    """A grid of devices, and whether each computes its networks together."""

    mesh: Mesh
    together: bool


def grid(seeds: int, batch: int) -> Mesh:
    mesh = mesh_of(seeds * batch)
    return Mesh(mesh.devices.reshape(seeds, batch), mesh.axis_names)


def trained(
    config: Config, mesh: Mesh, together: bool = False, steps: int = 6
) -> Trained:
    program = make_program(config, mesh, together)
    state = create_state(config, program)
    source = batches_of(random_examples(100), config, mesh)
    chunk = chunk_of(source, 0)
    state, sums = train_steps(state, chunk, jnp.int32(steps), program=program)
    return Trained(program, state, chunk, jax.device_get(sums))


def make_program(config: Config, mesh: Mesh, together: bool) -> Program:
    """A program whose networks are computed together, or in turn."""
    execution = DEFAULTS["cpu"]._replace(vectorize_seeds=together)
    return Program.create(config, TASK, mesh, execution)


def networks_of(state: TrainState) -> list[Any]:
    """The parameters, their averages and the optimizer's state of each network."""
    trees = (state.params, state.ema_params, state.opt_state)
    return split_ensemble(jax.device_get(trees))


def assert_agree(found: Any, expected: Any) -> None:
    """Compares trees up to rounding."""
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for a, b in leaves:
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.fixture(scope="module")
def singles() -> list[Trained]:
    with fast_compilation():
        return [trained(a_run(seed=5 + i), mesh_of(1)) for i in range(SEEDS)]


def a_run(**changes: Any) -> Config:
    settings = {
        "model.hidden_size": 8,
        "train.batch_size": 16,
        "train.ema_decay": 0.9,
        "data.max_shift": 1,
    }
    return Config().replace(settings | changes)


NETWORKS = a_run(seed=5, num_seeds=SEEDS)


@pytest.fixture(
    scope="module",
    params=[
        (1, 1, True),
        # CI only: more of the same.
        pytest.param((2, 4, True), marks=pytest.mark.slow),
        pytest.param((2, 4, False), marks=pytest.mark.slow),
        pytest.param((4, 1, False), marks=pytest.mark.exhaustive),
    ],
    ids=lambda way: f"{way[0]}x{way[1]} {'together' if way[2] else 'in turn'}",
)
def way(request: pytest.FixtureRequest) -> Way:
    """As on an accelerator or on a CPU."""
    seeds, batch, together = request.param
    return Way(grid(seeds, batch), together)


@pytest.mark.usefixtures("fast_programs")
def test_each_network_equals_that_of_its_seed_alone(
    singles: list[Trained], way: Way
) -> None:
    program, state, chunk, sums = trained(NETWORKS, way.mesh, way.together)
    assert program.execution.vectorize_seeds == way.together
    assert np.shape(state.step) == ()  # one step for all
    assert int(state.step) == 6
    assert int(sums.updates) == 6
    last, _ = jax.device_get(score_last_batch(state, chunk, program=program))
    for index, (network, alone) in enumerate(
        zip(networks_of(state), singles, strict=True)
    ):
        assert_agree(network, *networks_of(alone.state))
        assert sums.loss[index] == pytest.approx(alone.sums.loss[0], rel=1e-5)
        assert sums.correct[index] == alone.sums.correct[0]
        its, _ = score_last_batch(alone.state, alone.chunk, program=alone.program)
        assert last[index] == pytest.approx(float(its[0]), rel=1e-3)
    saved = saved_arrays(state, program=program)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(saved))
    networks = split_ensemble(saved["params"])
    assert len({params_sha256(params) for params in networks}) == SEEDS


def test_a_single_network_is_the_same_together_and_in_turn(
    singles: list[Trained],
) -> None:
    """An ensemble of one, whose axis only `vmap` sees."""
    together, in_turn = trained(a_run(seed=5), mesh_of(1), True), singles[0]
    assert together.program.execution.vectorize_seeds
    assert not in_turn.program.execution.vectorize_seeds
    assert_agree(networks_of(together.state), networks_of(in_turn.state))
    assert together.sums.loss == pytest.approx(in_turn.sums.loss, rel=1e-5)
    assert together.sums.correct == in_turn.sums.correct


@pytest.mark.usefixtures("fast_programs")
def test_one_nonfinite_network_stops_all_and_is_identified(way: Way) -> None:
    program, state, chunk, _ = trained(NETWORKS, way.mesh, way.together, 3)
    params = np.array(state.params)  # not the averages, which are evaluated
    params[2, 7] = np.nan
    poisoned = device_put(params, state.params.sharding)
    state = dataclasses.replace(state, params=poisoned)
    before = networks_of(state)
    state, sums = train_steps(state, chunk, jnp.int32(9), program=program)
    sums = jax.device_get(sums)
    assert int(state.step) == 3
    assert int(sums.updates) == 0
    np.testing.assert_array_equal(sums.finite, [True, True, False, True])
    assert not np.isfinite(sums.last_loss[2])
    after = networks_of(state)
    assert [params_sha256({"all": network}) for network in after] == [
        params_sha256({"all": network}) for network in before
    ]


@pytest.mark.usefixtures("fast_programs")
def test_an_ensemble_is_evaluated_as_its_networks_are(way: Way) -> None:
    program = make_program(NETWORKS, way.mesh, way.together)
    model = program.model
    params = evaluated_trees(create_state(NETWORKS, program), model=model)
    examples = random_examples(137)
    execution = program.execution._replace(eval_batch_size=10)

    def evaluate(params: Any, mesh: Mesh, execution: Execution) -> Scores:
        logits = predict_logits(model, params, examples, ROWS, mesh, execution)
        return score_logits(logits, examples.labels)

    found = evaluate(params, way.mesh, execution)
    assert len(found.members) == SEEDS
    for index, scores in enumerate(found.members):
        network = jax.tree.map(lambda leaf, i=index: np.asarray(leaf)[i, None], params)
        expected = evaluate(network, mesh_of(1), DEFAULTS["cpu"])
        assert scores.confusion == expected.confusion
        assert scores.loss == pytest.approx(expected.loss, rel=1e-5)


def test_seeds_are_sharded_before_the_batch() -> None:
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
    with pytest.raises(UserError, match=r"= 12, .*, not 5$"):
        make_mesh(4, 5, 3)


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.7062), (3, 4.3027), (8, 2.3646), (1000, 1.9623)]
)
def test_intervals_over_seeds_are_students_t(count: int, quantile: float) -> None:
    low, high = t_interval(0.9, 0.01, count)
    half = quantile * 0.01 / math.sqrt(count)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=1e-6)


def test_an_interval_of_an_accuracy_is_clipped() -> None:
    low, high = t_interval(0.99, 0.02, 2)
    assert low == pytest.approx(0.8103, abs=1e-4)
    assert high == 1.0
    assert t_interval(0.3, 0.3, 2)[0] == 0.0


def test_equal_totals_tie_for_any_counts_per_network() -> None:
    for counts in ((4890, 5001), (4891, 5000), (4945, 4946), (9891, 0)):
        metrics = Metrics.create(7, "validation", 5000, [0, 1], [1.0, 1.0], counts)
        assert metrics.accuracy == 9891 / 10_000
        assert metrics.correct == 9891
        assert tuple(network.correct for network in metrics.members) == counts


@pytest.fixture(scope="session")
def run(once: Once, command: Command, data_dir: Path) -> Run:
    """A run of an ensemble and its output. Tests that change the workdir copy it."""

    def train(folder: Path) -> None:
        finished = command(
            "main", *trainer.arguments(folder / "run", data_dir, *ENSEMBLE)
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        (folder / "stdout").write_text(finished.stdout)

    folder = once("ensemble", train)
    return Run(folder / "run", (folder / "stdout").read_text())


@pytest.fixture(scope="module")
def single(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the first seed alone."""
    workdir = tmp_path_factory.mktemp("single") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        main.main([*trainer.arguments(workdir, data_dir, *SMALL), ALONE])
    return Run(workdir, stdout.getvalue())


def test_files_hold_the_results_of_each_network(run: Run, tmp_path: Path) -> None:
    workdir = trainer.copy_of(run.workdir, tmp_path / "run")
    for line in trainer.metrics(workdir):
        assert [network["seed"] for network in line["members"]] == [0, 1, 2]
        for key in ("loss", "accuracy"):
            mean = statistics.fmean(network[key] for network in line["members"])
            assert line[key] == pytest.approx(mean)
    (path,) = (workdir / "evaluation").iterdir()
    result = json.loads(path.read_text())
    networks = result["members"]
    accuracies = [network["accuracy"] for network in networks]
    assert result["correct"] == sum(network["correct"] for network in networks)
    assert result["examples"] == networks[0]["examples"] == 500
    assert result["accuracy"] == result["accuracy_mean"]
    assert result["accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
    assert result["accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
    assert sum(map(sum, result["confusion"])) == 1500
    assert result["num_parameters"] == networks[0]["num_parameters"]
    for network in networks:
        assert sum(map(sum, network["confusion"])) == 500
        assert result.keys() - network.keys() == {
            "members",
            "task",
            "accuracy_mean",
            "accuracy_std",
            "accuracy_mean_interval",
            "ensemble_correct",
            "ensemble_accuracy",
        }
    found = read_result(path, result["params_sha256"])
    assert found is not None
    assert json.loads(msgspec.json.encode(found)) == result
    assert "seeds 0 to 2" in run.stdout
    (text,) = [text for text in run.stdout.splitlines() if text.startswith("test ")]
    assert "± " in text
    assert "over 3 seeds" in text
    assert f"({result['ensemble_correct']} of 500)" in text


def test_a_run_of_one_seed_equals_its_network_in_the_ensemble(
    run: Run, single: Run
) -> None:
    network = [
        (line["step"], line["split"], line["members"][0])
        for line in trainer.metrics(run.workdir)
    ]
    for a, (step, split, b) in zip(
        trainer.metrics(single.workdir), network, strict=True
    ):
        assert (a["step"], a["split"], b["seed"]) == (step, split, 0)
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.03)
    (line,) = re.findall("^test .*$", single.stdout, re.M)
    assert "95 % interval" in line
    assert "±" not in line  # no spread over one seed


def shapes(tree: Any, without: int = 0) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path, without some leading axes."""
    return {name: tuple(leaf.shape)[without:] for name, leaf in named_leaves(tree)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_checkpoint_has_flaxs_names_and_an_axis_only_for_several_seeds(
    run: Run, single: Run, seeds: int
) -> None:
    workdir, axes = (single.workdir, 0) if seeds == 1 else (run.workdir, 1)
    params = checkpoints.read_params(workdir, STEPS)
    state = checkpoints.read_state(workdir, STEPS)
    leaves = [leaf for name, leaf in named_leaves((params, state)) if name != "1/step"]
    assert axes == 0 or {len(leaf) for leaf in leaves} == {seeds}

    carry, row = (jnp.zeros((1, 16)),) * 2, jnp.zeros((1, 28))
    cell = nn.OptimizedLSTMCell(16)
    variables = jax.eval_shape(cell.init, jax.random.key(0), carry, row)
    expected = {f"cell/{k}": shape for k, shape in shapes(variables["params"]).items()}
    expected |= {"head/kernel": (16, 10), "head/bias": (10,)}
    assert expected["cell/hf/bias"] == (16,)
    assert shapes(params, axes) == expected
    assert state.keys() == {"opt_state", "step", "trained_params"}
    assert state["step"].shape == ()
    assert shapes(state["trained_params"], axes) == expected
    found = shapes(state["opt_state"], axes)
    for moment in ("mu", "nu"):
        parts = {n: s for n, s in found.items() if f"/{moment}/" in n}
        assert {n.split(f"/{moment}/")[1]: s for n, s in parts.items()} == expected
        found = {n: s for n, s in found.items() if n not in parts}
    assert {name.rpartition("/")[2] for name in found} == {"count"}
    assert set(found.values()) == {()}


def assert_same_result(workdir: Path, other: Path) -> None:
    """Checks that two results are equal, up to rounding of the loss."""
    (found,), (expected,) = (
        [json.loads(path.read_text()) for path in (folder / "evaluation").iterdir()]
        for folder in (workdir, other)
    )
    for a, b in zip(
        [found, *found["members"]], [expected, *expected["members"]], strict=True
    ):
        assert a.pop("loss") == pytest.approx(b.pop("loss"), rel=1e-5)
    assert found == expected


def test_an_ensemble_resumes_bit_for_bit_and_is_verified_and_evaluated(
    run: Run,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = trainer.copy_of(run.workdir, tmp_path / "run")
    trainer.cut_back(workdir, 20)
    main.main([*trainer.arguments(workdir, data_dir, *ENSEMBLE), ALONE])
    assert "resuming from step 20\n" in capsys.readouterr().out
    trainer.assert_same_end(workdir, run.workdir, STEPS)
    verify.main([f"--workdir={workdir}"])
    evaluate_command.main([f"--workdir={workdir}"])
    printed = capsys.readouterr().out
    for seed in range(3):
        assert re.search(rf"^seed {seed}: .* of 500; 95 %", printed, re.M)
    assert_same_result(workdir, run.workdir)
    args = trainer.arguments(workdir, data_dir, *SMALL, "--config.num_seeds=2")
    assert "num_seeds=2 (checkpoint: 3)" in refused("main", *args, ALONE)


@pytest.mark.usefixtures("unrendered")
def test_the_report_of_an_ensemble(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    workdir = trainer.copy_of(run.workdir, tmp_path / "run")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "note": "of another program"}\n')
    report.main([f"--workdir={workdir}"])
    assert capsys.readouterr().err == ""
    assert caplog.messages == []
    page = (workdir / "report" / "index.html").read_text()
    (path,) = (workdir / "evaluation").iterdir()
    result = json.loads(path.read_text())
    assert f"{100 * result['accuracy_mean']:.2f}" in page
    counts = ", ".join(str(network["correct"]) for network in result["members"])
    assert f"{counts} of 500" in page


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_two_processes_train_a_seed_each(
    unoptimized: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    two = (*SMALL, "--config.num_seeds=2", "--config.execution.num_devices=2")
    ended = trainer.run_processes(unoptimized, tmp_path / "pair", data_dir, 2, *two)
    assert [code for code, _, _ in ended] == [0, 0], ended
    alone = called("main", *trainer.arguments(tmp_path / "alone", data_dir, *two))
    assert alone.returncode == 0, alone.stderr
    trainer.assert_same_end(tmp_path / "pair", tmp_path / "alone", STEPS)


def test_every_evaluation_on_the_test_split_is_logged(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    workdir = trainer.copy_of(run.workdir, tmp_path / "run")
    log, flag = workdir / "test_readings.jsonl", f"--workdir={workdir}"

    def commands() -> list[str]:
        return [json.loads(line)["command"] for line in log.read_text().splitlines()]

    assert commands() == ["main"]  # once, for the checkpoint selected on validation
    main.main([*trainer.arguments(workdir, data_dir, *ENSEMBLE), ALONE])
    assert commands() == ["main"]  # a complete run is not evaluated again
    for split in ("validation", "test"):
        evaluate_command.main([flag, f"--split={split}"])
    assert commands() == ["main", "evaluate"]
    (line,) = [json.loads(line) for line in log.read_text().splitlines()][1:]
    (path,) = (workdir / "evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    assert (line["step"], line["params_sha256"]) == (
        result["step"],
        result["params_sha256"],
    )
    log.unlink()
    log.mkdir()  # not writable, even by root
    path.unlink()
    for command in (evaluate_command.main, report.main):
        with pytest.raises(IsADirectoryError, match=r"test_readings\.jsonl"):
            command([flag])
    assert not path.exists()  # nothing is evaluated that cannot be logged
