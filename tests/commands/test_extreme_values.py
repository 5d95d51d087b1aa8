"""Values so large that a network has no prediction: refused, by every command."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import (
    as_ensemble,
    called,
    model_of,
    random_params,
    refused,
    save_network,
    task_of,
)

from rnnmnist import load
from rnnmnist.commands import predict
from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header

INPUTS = np.zeros((4, 6, 2))
INPUTS[2, 3:] = 1  # with which the logits of `overflowing` are infinite
LABELS = np.arange(4) % 2


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose logits are 0 of zeros, and infinite of ones."""
    data = DataConfig(name="files", normalize="none")
    model = ModelConfig("rnn", hidden_size=4)
    given = Config(data=data, model=model, train=TrainConfig(num_steps=3))
    task = task_of(6, 2, 2)
    config = fill_defaults(given, task)
    params = jax.tree.map(np.zeros_like, random_params(model_of(model, task)))
    params["cell"]["i"]["kernel"][:] = 1
    params["head"]["kernel"][:] = 3e38
    workdir = tmp_path_factory.mktemp("overflowing") / "run"
    header = Header(step=3, config=config, task=task, metrics=None)
    checkpoints.save(workdir, header, {"params": as_ensemble(params)})
    return workdir


@pytest.mark.usefixtures("unrendered")
def test_no_command_has_a_result_without_finite_logits(
    overflowing: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failure(name: str, *arguments: object) -> str:
        finished = called(name, f"--workdir={overflowing}", *arguments)
        assert finished.returncode == 1
        (line,) = finished.stderr.splitlines()
        assert finished.stdout.count('"label"') == 3 * arguments.count("--stream")
        return line

    path, fine = tmp_path / "large.npz", tmp_path / "fine.npz"
    np.savez(path, inputs=INPUTS, labels=LABELS)
    np.savez(fine, inputs=INPUTS[:2])
    data = f"--config.data.path={path}"
    for name in ("evaluate", "report"):
        assert "example 2," in failure(name, data)
    output = tmp_path / "export"
    export = "--format=stablehlo", f"--output={output}"
    assert "example 2," in failure("export", data, *export)
    assert not output.exists()
    assert {file.name for file in overflowing.iterdir()} == {"3"}
    with pytest.raises(SystemExit, match="1"):
        predict.main([f"--workdir={overflowing}", str(path), str(fine)])
    printed = capsys.readouterr()
    assert printed.out.count(f"{fine}, sequence ") == len(printed.out.splitlines()) == 2
    assert printed.err.startswith(f"error: {path}: ")
    assert "example 2," in printed.err
    rows = "\n".join(",".join(map(str, row)) for row in INPUTS[2].tolist())
    monkeypatch.setattr("sys.stdin", io.StringIO(rows))
    assert "standard input, line 4: " in failure("predict", "--stream")


def test_a_model_has_no_probabilities_without_finite_logits(
    overflowing: Path,
) -> None:
    model = load(overflowing)
    for method in (model.classify, model.occlusion):
        ask: Any = method
        with pytest.raises(RunError, match="example 2,"):
            ask(INPUTS)
        assert np.isfinite(ask(INPUTS[:2])).all()
    state, probabilities = model.step(model.start(), INPUTS[0, 0])
    assert np.isfinite(probabilities).all()
    with pytest.raises(RunError):
        model.step(state, INPUTS[2, 3])


FILL = 9.969209968386869e36  # NetCDF's, of float32


def run_on(folder: Path, normalize: Any) -> Path:
    """A run on two features, without or with a normalization."""
    data = DataConfig(name="files", normalize=normalize)
    config = Config(data=data, model=ModelConfig(hidden_size=4))
    config = config.replace({"train.num_steps": 3})
    task = dataclasses.replace(task_of(6, 2, 2), feature_names=("x", "y"))
    if normalize == "standardize":
        task = dataclasses.replace(task, mean=(1e9, 0.5), std=(1e-3, 2.0))
    return save_network(folder / "run", config, task)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("normalize", "value"), [("standardize", 1e20), ("none", -FILL)]
)
def test_no_command_classifies_a_value_far_from_training(
    value: float, normalize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padding of sequences holds any value."""
    workdir = run_on(tmp_path, normalize)
    model = load(workdir)
    inputs = np.tile([1e9, 0.5], (4, 6, 1))
    inputs[2, 3, 1] = inputs[0, 5, 0] = value
    lengths = [5, 6, 6, 6]
    unpadded = [inputs[0, :5], *inputs[1:]]
    place = "the value of sequence 2 at time step 3, feature"
    for ask in (model.classify, model.occlusion):
        for arguments in ((inputs, lengths), (unpadded,)):
            with pytest.raises(UserError, match=f"^inputs: {place} 1, is "):
                ask(*arguments)
    fine = model.classify(inputs, [5, 6, 3, 6])
    assert np.isfinite(fine).all()
    path = tmp_path / "far.npz"
    arrays = {"inputs": inputs, "lengths": lengths, "feature_names": ["x", "y"]}
    np.savez(path, **arrays, labels=LABELS)  # type: ignore[arg-type]
    data, of_run = f"--config.data.path={path}", f"--workdir={workdir}"
    output = tmp_path / "export"
    for name, *flags in (
        ("evaluate", data),
        ("report", data),
        ("export", data, "--format=stablehlo", f"--output={output}"),
    ):
        message = refused(name, of_run, *flags)
        assert message.startswith(f"{path}: {place} y, is {value:.3g}, ")
    assert not output.exists()
    assert [file.name for file in workdir.iterdir()] == ["3"]
    with pytest.raises(SystemExit, match="2"):
        predict.main([of_run, str(path)])
    rows = "\n".join(",".join(map(str, row)) for row in inputs[2].tolist())
    monkeypatch.setattr("sys.stdin", io.StringIO(rows))
    message = refused("predict", of_run, "--stream")
    assert message.startswith(f"standard input, line 4: feature y is {value:.3g}, ")


def test_a_value_can_be_a_million_deviations_from_the_mean(tmp_path: Path) -> None:
    """Without a normalization, anything that float32 can square."""
    means, stds = np.array([1e9, 0.5]), np.array([1e-3, 2.0])
    for normalize, near in (("standardize", 0.9e6), ("none", 1.8e19)):
        model = load(run_on(tmp_path / normalize, normalize))
        if normalize == "none":
            means, stds = np.zeros(2), np.ones(2)
        for feature in range(2):
            for sign in (-1, 1):
                values = np.tile(means, (6, 1))
                values[3, feature] += sign * near * stds[feature]
                model.classify(values[None])
                model.step(model.start(), values[3])
                values[3, feature] += 5 * sign * near * stds[feature]
                with pytest.raises(UserError, match="time step 3, "):
                    model.classify(values[None])
                with pytest.raises(UserError, match=r"^feature [xy] "):
                    model.step(model.start(), values[3])


def test_training_refuses_what_its_evaluation_would(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(40, 6, 2))
    inputs[37, 2, 1] = FILL
    split = np.repeat(["train", "validation", "test"], [20, 10, 10])
    path = tmp_path / "far.npz"
    np.savez(path, inputs=inputs, labels=np.arange(40) % 2, split=split)
    flags = f"--config.data.path={path}", f"--workdir={tmp_path}/run"
    message = refused("main", "--config=files", *flags)
    assert message.startswith(f"{path}: the value of sequence 37 at time step 2, ")
    assert not (tmp_path / "run").exists()
