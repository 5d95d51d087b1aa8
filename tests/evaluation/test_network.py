"""Trained networks: predictions over time, streams, and valid inputs."""

import dataclasses
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import REPOSITORY, random_examples, save_network, task_of

from rnnmnist import load
from rnnmnist.commands import predict
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.examples import permutation_sha256
from rnnmnist.data.image_datasets import image_task
from rnnmnist.errors import UserError
from rnnmnist.evaluation.logit_metrics import evaluate_logits
from rnnmnist.evaluation.network import Network
from rnnmnist.runs.records import Record
from rnnmnist.runtime.devices import make_single_device_mesh

IMAGES = random_examples(7).stored


@pytest.mark.parametrize(
    ("cell", "pooling", "window"),
    [("lstm", "last", 1), pytest.param("lru", "mean", 8, marks=pytest.mark.slow)],
)
def test_streams_predict_as_whole_sequences(
    cell: str,
    pooling: Any,
    window: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three streams are interleaved; the command reads one up to an invalid line."""
    data = DataConfig(name="files", missing="forward_fill")
    model = ModelConfig(
        cell, pooling=pooling, hidden_size=8, num_layers=2, window=window
    )
    config = Config(num_seeds=2, data=data, model=model)
    task = dataclasses.replace(task_of(6, 2, 3), mean=(0.5, -1.0), std=(2.0, 0.25))
    workdir = save_network(tmp_path / "run", config, task)
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(3, 6, 2))
    inputs[generator.random(inputs.shape) < 0.3] = np.nan
    network = load(workdir)
    lengths = np.tile(np.arange(1, 7), 3)
    whole = network.classify(inputs.repeat(6, axis=0), lengths).reshape(3, 6, 3)
    assert whole.std(axis=(0, 1)).min() > 0.005

    streamed = np.zeros_like(whole)
    states = [network.start() for _ in inputs]
    for time in range(6):
        for index, state in enumerate(states):
            features = inputs[index, time]
            states[index], streamed[index, time] = network.step(state, features)
    np.testing.assert_allclose(streamed, whole, rtol=1e-5, atol=1e-6)

    rows = [[",".join(map(str, row)) for row in one] for one in inputs.tolist()]
    text = "\n\n".join(map("\n".join, rows)).replace("nan", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{text}\n1,2,3"))
    with pytest.raises(
        UserError, match=r"^standard input, line 21: features: must have "
    ):
        predict.main([f"--workdir={workdir}", "--stream"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == 3 * [1, 2, 3, 4, 5, 6]
    printed = [list(line["probabilities"].values()) for line in lines]
    np.testing.assert_array_equal(printed, streamed.reshape(18, 3))


def test_a_stream_refuses_invalid_time_steps() -> None:
    network = load()
    wrong: list[tuple[Any, str]] = [
        (np.zeros(27), r"features: .*\(28,\), .*\(27,\)"),
        (np.ma.masked_equal(np.arange(28), 1), "features: .*masked"),
        (np.full(28, np.nan), "feature 0 is missing"),
        (np.full(28, 255), "features: .*between 0 and 1"),
        ([1, [2]], "features: "),
    ]
    for features, message in wrong:
        with pytest.raises(UserError, match=message):
            network.step(network.start(), features)


def test_a_bidirectional_network_has_no_outputs_over_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(model=ModelConfig(hidden_size=4, bidirectional=True))
    workdir = save_network(tmp_path / "run", config, image_task(config.data))
    network = load(workdir)
    for ask in (network.start, lambda: network.classify(IMAGES, every_step=True)):
        with pytest.raises(UserError, match=r"^model\.bidirectional: "):
            ask()
    prediction = network.predict(IMAGES[0])
    assert prediction.probabilities.shape == (1, 10)
    assert prediction.decision_time == 1
    predict.main([f"--workdir={workdir}", str(REPOSITORY / "docs/five.jpg")])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_images_of_another_shape_or_type_are_refused() -> None:
    network = load()
    for images in (IMAGES[0], np.zeros((2, 28, 28)), IMAGES[:0], 7):
        with pytest.raises(UserError, match=r"^inputs: must be uint8 images of shape"):
            network.classify(images)
    for method, images in ("classify", IMAGES), ("predict", IMAGES[0]):
        with pytest.raises(UserError, match=r"^(inputs|image): contains masked values"):
            getattr(network, method)(np.ma.masked_equal(images, 0))


def test_a_result_identifies_the_permutation(tmp_path: Path) -> None:
    changes = {"data.view": "permuted"}
    config = Config(model=ModelConfig(hidden_size=4)).replace(changes)
    task = image_task(config.data)
    run = Network(Record(save_network(tmp_path / "run", config, task)), "best")
    examples = random_examples(3)
    logits = run.on(make_single_device_mesh()).logits(examples)
    result = evaluate_logits(run, task, "validation", examples, logits)
    assert result.permutation_sha256 == permutation_sha256("bit_reversal", 784)


def test_a_pickled_model_keeps_the_arguments_of_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pickle is opened in another folder."""
    config = Config(data=DataConfig(name="files"), model=ModelConfig(hidden_size=4))
    workdir = save_network(tmp_path / "run", config, task_of(6, 2, 3))
    monkeypatch.chdir(tmp_path)
    model = load(workdir, path="moved.npz")
    content = pickle.dumps(model)
    monkeypatch.chdir(workdir)
    loaded = pickle.loads(content)
    inputs = np.ones((1, 6, 2))
    np.testing.assert_array_equal(loaded.classify(inputs), model.classify(inputs))
    assert loaded.config == model.config
    assert loaded.config.data.path == str(tmp_path / "moved.npz")
