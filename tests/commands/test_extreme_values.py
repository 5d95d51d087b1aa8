"""Every command rejects values that are too large for a prediction."""

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
from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header

INPUTS = np.zeros((4, 6, 2))
INPUTS[2, 3:] = 1
LABELS = np.arange(4) % 2


def run_on(folder: Path, normalize: Any) -> Path:
    """Saves a run on two features, with or without normalization."""
    data = DataConfig(name="files", normalize=normalize)
    config = Config(data=data, model=ModelConfig(hidden_size=4))
    config = config.replace({"train.num_steps": 3})
    task = dataclasses.replace(task_of(6, 2, 2), feature_names=("x", "y"))
    if normalize == "standardize":
        task = dataclasses.replace(task, mean=(1e9, 0.5), std=(1e-3, 2.0))
    return save_network(folder / "run", config, task)


def test_infinite_logits_raise_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs of 0 give logits of 0, and inputs of 1 give infinite logits."""
    data = DataConfig(name="files", normalize="none")
    model = ModelConfig("rnn", hidden_size=4)
    task = task_of(6, 2, 2)
    config = fill_defaults(Config(data=data, model=model), task)
    params = jax.tree.map(np.zeros_like, random_params(model_of(model, task)))
    params["cell"]["i"]["kernel"][:] = 1
    params["head"]["kernel"][:] = 3e38
    workdir = tmp_path / "run"
    header = Header(step=3, config=config, task=task, metrics=None)
    checkpoints.save(workdir, header, {"params": as_ensemble(params)})
    path, other_path = tmp_path / "large.npz", tmp_path / "zeros.npz"
    np.savez(path, inputs=INPUTS, labels=LABELS)
    np.savez(other_path, inputs=INPUTS[:2])
    flag = f"--workdir={workdir}"

    process = called("evaluate", flag, f"--config.data.path={path}")
    assert (process.returncode, process.stdout) == (1, "")
    assert "example 2 " in process.stderr
    assert [file.name for file in workdir.iterdir()] == ["3"]
    process = called("predict", flag, path, other_path)
    assert process.returncode == 1
    assert process.stdout.count(f"{other_path}, sequence ") == 2
    assert process.stderr.startswith(f"error: {path}: ")
    rows = "\n".join(",".join(map(str, row)) for row in INPUTS[2].tolist())
    monkeypatch.setattr("sys.stdin", io.StringIO(rows))
    process = called("predict", flag, "--stream")
    assert process.returncode == 1
    assert process.stdout.count('"label"') == 3
    assert process.stderr.startswith("error: standard input, line 4: ")
    with pytest.raises(RunError, match="example 2 "):
        load(workdir).occlusion(INPUTS)


@pytest.mark.parametrize(
    ("normalize", "valid_value", "value"),
    [("standardize", 1.9e6, 2.1e6), ("none", -1.8e19, -3.5e38)],
)
def test_values_a_million_standard_deviations_from_the_mean_are_rejected(
    normalize: str,
    valid_value: float,
    value: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If values are not normalized, their squares must be finite in float32.

    The padding of sequences may contain any value.
    """
    workdir = run_on(tmp_path, normalize)
    model = load(workdir)
    inputs = np.tile([1e9, 0.5], (4, 6, 1))
    inputs[1, 3, 1] = valid_value
    inputs[2, 3, 1] = inputs[0, 5, 0] = value
    lengths = [5, 6, 6, 6]
    prefix = "the value of sequence 2 at time step 3, feature"
    for arguments in ((inputs, lengths), ([inputs[0, :5], *inputs[1:]],)):
        with pytest.raises(UserError, match=f"^inputs: {prefix} y, is "):
            model.classify(*arguments)
    assert np.isfinite(model.classify(inputs, [5, 6, 3, 6])).all()
    path = tmp_path / "far.npz"
    arrays = {"inputs": inputs, "lengths": lengths, "feature_names": ["x", "y"]}
    np.savez(path, **arrays, labels=LABELS)  # type: ignore[arg-type]
    flag = f"--workdir={workdir}"
    for name, data in ("evaluate", f"--config.data.path={path}"), ("predict", path):
        message = refused(name, flag, data)
        assert message.startswith(f"{path}: {prefix} y, is {value:.3g}; ")
    rows = "\n".join(",".join(map(str, row)) for row in inputs[2].tolist())
    monkeypatch.setattr("sys.stdin", io.StringIO(rows))
    message = refused("predict", flag, "--stream")
    assert message.startswith(f"standard input, line 4: feature y is {value:.3g}; ")
