"""Ensembles of seeds: each network equals that of a run with its seed alone."""

import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax.training.train_state import TrainState
from jax.sharding import Mesh
from support import Command, Once, mesh_of, random_examples, refused

from rnnmnist import evaluate as evaluate_command
from rnnmnist import main, report, verify
from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.config.schema import Config
from rnnmnist.data.batches import TrainingSplit
from rnnmnist.errors import RunError, UserError
from rnnmnist.evaluation.intervals import t_interval
from rnnmnist.evaluation.metrics import evaluate
from rnnmnist.evaluation.predictions import EvaluationSplit, predict_batches
from rnnmnist.evaluation.results import read_result
from rnnmnist.models.classifier import make_model, split_ensemble
from rnnmnist.runtime import ensemble
from rnnmnist.runtime.mesh import device_put, make_mesh, replicate
from rnnmnist.training.logs import metrics_line
from rnnmnist.training.state import create_state
from rnnmnist.training.step import Metrics, score_last_batch, train_steps

SEEDS = 4
ENSEMBLE = "--config.num_seeds=3"
ALONE = "--num_processes=1"  # required in a process that has initialized jax


class Run(NamedTuple):
    """A run of three seeds."""

    workdir: Path
    stdout: str


def grid(seeds: int, batch: int) -> Mesh:
    mesh = mesh_of(seeds * batch)
    return Mesh(mesh.devices.reshape(seeds, batch), mesh.axis_names)


def trained(
    config: Config, mesh: Mesh, steps: int = 6
) -> tuple[TrainState, TrainingSplit, Metrics]:
    state = create_state(config, make_model(config.model), mesh)
    split = TrainingSplit.device_put(random_examples(100), config, mesh)
    state, metrics = train_steps(state, split, jnp.int32(steps), mesh=mesh)
    return state, split, jax.device_get(metrics)


def state_sha256(state: TrainState) -> str:
    return params_sha256({"params": state.params, "opt_state": state.opt_state})


@pytest.fixture(scope="module")
def singles() -> list[tuple[TrainState, TrainingSplit, Metrics]]:
    return [trained(a_run(seed=5 + i), mesh_of(1)) for i in range(SEEDS)]


def a_run(**changes: Any) -> Config:
    settings = {
        "model.hidden_size": 8,
        "train.batch_size": 16,
        "train.ema_decay": 0.9,
        "data.max_shift": 1,
    }
    return Config().replace(settings | changes)


@pytest.fixture(
    scope="module",
    params=[
        (2, 4, True),
        # CI only: these take long to compile.
        pytest.param((1, 1, True), marks=pytest.mark.slow),
        pytest.param((2, 4, False), marks=pytest.mark.slow),
        pytest.param((1, 1, False), marks=pytest.mark.exhaustive),
        pytest.param((4, 1, False), marks=pytest.mark.exhaustive),
    ],
    ids=lambda way: f"{way[0]}x{way[1]} {'at once' if way[2] else 'one by one'}",
)
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """A grid of devices; computes the networks as on an accelerator or a CPU."""
    seeds, batch, at_once = request.param
    programs: tuple[Any, ...] = (train_steps, score_last_batch, predict_batches)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ensemble, "uses_vmap", lambda: at_once)
        for program in programs:
            program.clear_cache()
        yield grid(seeds, batch)
    for program in programs:
        program.clear_cache()


def test_each_network_equals_that_of_its_seed_alone(
    singles: list[tuple[TrainState, TrainingSplit, Metrics]], mesh: Mesh
) -> None:
    config = a_run(seed=5, num_seeds=SEEDS)
    state, split, metrics = trained(config, mesh)
    assert np.shape(state.step) == ()  # one step for all
    assert int(state.step) == 6
    assert int(metrics.examples) == 6 * 16
    last = jax.device_get(score_last_batch(state, split, mesh=mesh))
    replicated = replicate(state, mesh)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(replicated))
    ensemble_trees = (replicated.params, replicated.opt_state)
    for index, (single, its_split, its_metrics) in enumerate(singles):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], ensemble_trees)
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
    networks = split_ensemble(replicated.params)
    assert len({params_sha256(params) for params in networks}) == 4


def test_one_nonfinite_network_stops_all_and_is_identified(mesh: Mesh) -> None:
    state, split, _ = trained(a_run(seed=5, num_seeds=SEEDS), mesh, 3)
    weights = dict(state.opt_state.iterate)  # the parameters are their average
    head = dict(weights["head"])
    bias = np.array(head["bias"])
    bias[2, 7] = np.inf
    head["bias"] = device_put(bias, head["bias"].sharding)
    poisoned = state.opt_state._replace(iterate=weights | {"head": head})
    state = state.replace(opt_state=poisoned)
    before = state_sha256(state)
    state, metrics = train_steps(state, split, jnp.int32(9), mesh=mesh)
    metrics = jax.device_get(metrics)
    assert int(state.step) == 3
    assert int(metrics.examples) == 0
    np.testing.assert_array_equal(metrics.nonfinite, [False, False, True, False])
    assert not np.isfinite(metrics.rejected_loss[2])
    assert state_sha256(state) == before


def test_an_ensemble_is_evaluated_as_its_networks_are(mesh: Mesh) -> None:
    config = a_run(seed=5, num_seeds=SEEDS)
    model = make_model(config.model)
    params = create_state(config, model, mesh).params
    examples = random_examples(137)
    found = evaluate(model, params, EvaluationSplit.device_put(examples, mesh, 10))
    alone = EvaluationSplit.device_put(examples, mesh_of(1))
    networks = split_ensemble(jax.device_get(params))
    for result, network in zip(found, networks, strict=True):
        (expected,) = evaluate(model, network, alone)
        assert result.confusion == expected.confusion
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)


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
    line = "num_seeds=3 times one of train.batch_size=4, not 5; use 4"
    with pytest.raises(UserError, match=line):
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
    config = Config(num_seeds=2)
    for counts in ([4890, 5001], [4891, 5000], [4945, 4946], [9891, 0]):
        line = metrics_line(config, [1.0, 1.0], counts, 5000)
        assert line["accuracy"] == 9891 / 10_000
        assert line["correct"] == 9891
        assert [network["correct"] for network in line["members"]] == counts


@pytest.fixture(scope="session")
def run(once: Once, command: Command, data_dir: Path) -> Run:
    """A run of an ensemble and its output. Tests that change the workdir copy it."""

    def train(folder: Path) -> None:
        finished = command("main", *runs.arguments(folder / "run", data_dir, ENSEMBLE))
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        (folder / "stdout").write_text(finished.stdout)

    folder = once("ensemble", train)
    return Run(folder / "run", (folder / "stdout").read_text())


def test_files_hold_the_results_of_each_network(run: Run, tmp_path: Path) -> None:
    workdir = runs.copy_of(run.workdir, tmp_path / "run")
    for line in runs.metrics(workdir):
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
            "accuracy_mean",
            "accuracy_std",
            "accuracy_mean_interval",
        }
    assert read_result(path, result["params_sha256"]) == result
    changed = [networks[0] | {"correct": 1}, *networks[1:]]
    path.write_text(json.dumps(result | {"members": changed}))
    assert read_result(path, result["params_sha256"]) is None
    path.write_text(json.dumps(result))
    assert "seeds 0 to 2" in run.stdout
    (text,) = [text for text in run.stdout.splitlines() if text.startswith("test ")]
    assert "± " in text
    assert "over 3 seeds" in text


def test_a_run_of_one_seed_equals_its_network_in_the_ensemble(
    run: Run,
    reference_run: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    single = runs.metrics(reference_run)
    network = [
        (line["step"], line["split"], line["members"][0])
        for line in runs.metrics(run.workdir)
    ]
    for a, (step, split, b) in zip(single, network, strict=True):
        assert (a["step"], a["split"], b["seed"]) == (step, split, 0)
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.03)
    workdir = runs.copy_of(reference_run, tmp_path / "single")
    main.main([*runs.arguments(workdir, data_dir), ALONE])  # the run is complete
    (line,) = re.findall("^test .*$", capsys.readouterr().out, re.M)
    assert "95 % interval" in line
    assert "±" not in line  # no spread over one seed


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
    command: Command,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = runs.copy_of(run.workdir, tmp_path / "run")
    runs.cut_back(workdir, 100)
    finished = command("main", *runs.arguments(workdir, data_dir, ENSEMBLE))
    assert "resuming from step 100\n" in finished.stdout
    runs.assert_same_end(workdir, run.workdir)
    verify.main([f"--workdir={workdir}"])
    evaluate_command.main([f"--workdir={workdir}"])
    printed = capsys.readouterr().out
    for seed in range(3):
        assert re.search(rf"^seed {seed}: .* of 500; 95 %", printed, re.M)
    assert_same_result(workdir, run.workdir)
    args = runs.arguments(workdir, data_dir, "--config.num_seeds=2")
    assert "num_seeds=2 (checkpoint: 3)" in refused("main", *args, ALONE)


def test_the_report_of_an_ensemble(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    workdir = runs.copy_of(run.workdir, tmp_path / "run")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "note": "of another program"}\n')
    report.main([f"--workdir={workdir}"])
    assert capsys.readouterr().err == ""
    assert caplog.messages == []
    page = (workdir / "report" / "index.html").read_text()
    (path,) = (workdir / "evaluation").iterdir()
    result = json.loads(path.read_text())
    assert f"{100 * result['accuracy_mean']:.2f}" in page
    for network in result["members"]:
        assert f"{network['correct']} of 500" in page.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.slow
def test_two_processes_train_a_seed_each(
    environment: dict[str, str], command: Command, data_dir: Path, tmp_path: Path
) -> None:
    two = ("--config.num_seeds=2", "--config.train.num_devices=2")
    args = runs.arguments(tmp_path / "pair", data_dir, *two)
    ended = runs.outcomes(runs.start_together(environment, [args] * 2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    alone = command("main", *runs.arguments(tmp_path / "alone", data_dir, *two))
    assert alone.returncode == 0, alone.stderr
    runs.assert_same_end(tmp_path / "pair", tmp_path / "alone")


def test_every_evaluation_on_the_test_split_is_logged(
    run: Run, data_dir: Path, tmp_path: Path
) -> None:
    workdir = runs.copy_of(run.workdir, tmp_path / "run")
    log, flag = workdir / "test_readings.jsonl", f"--workdir={workdir}"

    def commands() -> list[str]:
        return [json.loads(line)["command"] for line in log.read_text().splitlines()]

    assert commands() == ["main"]  # once, for the checkpoint selected on validation
    main.main([*runs.arguments(workdir, data_dir, ENSEMBLE), ALONE])
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
        with pytest.raises(RunError) as error:
            command([flag])
        assert error.value.exit_code == 1
        text = "the reading of the test split cannot be written"
        assert str(error.value).startswith(text)
    assert not path.exists()  # nothing is evaluated that cannot be logged
