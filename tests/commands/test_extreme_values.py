"""Values so large that a network has no prediction: refused, by every command."""

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import called, model_of, random_params, task_of

from rnnmnist import Predictor, predict
from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from rnnmnist.errors import RunError
from rnnmnist.runs.checkpoints import Checkpoints

INPUTS = np.zeros((4, 6, 2))
INPUTS[2, 3:] = 1  # with which the logits of `overflowing` are infinite
LABELS = np.arange(4) % 2


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose logits are 0 of zeros, and infinite of ones."""
    data = DataConfig(name="files", normalize="none")
    model = ModelConfig("rnn", hidden_size=4)
    config = Config(data=data, model=model, train=TrainConfig(num_steps=3))
    task = task_of(6, 2, 2)
    params = jax.tree.map(np.zeros_like, random_params(model_of(model, task)))
    params["cell"]["i"]["kernel"][:] = 1
    params["head"]["kernel"][:] = 3e38
    workdir = tmp_path_factory.mktemp("overflowing") / "run"
    with Checkpoints(workdir, config, task) as checkpoints:
        checkpoints.save(3, {"params": params}, None)
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


def test_a_predictor_has_no_probabilities_without_finite_logits(
    overflowing: Path,
) -> None:
    predictor = Predictor(overflowing)
    for method in (predictor.classify, predictor.occlusion):
        ask: Any = method
        with pytest.raises(RunError, match="example 2,"):
            ask(INPUTS)
        assert np.isfinite(ask(INPUTS[:2])).all()
    state, probabilities = predictor.step(predictor.start(), INPUTS[0, 0])
    assert np.isfinite(probabilities).all()
    with pytest.raises(RunError):
        predictor.step(state, INPUTS[2, 3])
