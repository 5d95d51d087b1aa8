"""Validation: its metrics, and the fitted temperature."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainer

import rnnmnist
from rnnmnist.evaluation.inputs import read_inputs, to_inputs
from rnnmnist.evaluation.logit_metrics import compute_ensemble_metrics
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.probabilities import smoothing_temperature
from rnnmnist.runs import logs
from rnnmnist.runs.records import Record
from rnnmnist.runtime.devices import make_single_device_mesh

# Noisy sequences, of which few are for training, so that networks learn them by heart.
LABELS = np.arange(390) % 3
INPUTS = np.random.default_rng(0).normal(0.4 * LABELS[:, None, None], 1, (390, 6, 2))
SPLIT = np.array(["train"] * 30 + ["validation"] * 60 + ["test"] * 300)
SETTINGS: dict[str, Any] = {
    "cell": "lstm",
    "hidden_size": 8,
    "num_steps": 200,
    "eval_every_steps": 50,
    "learning_rate": 0.03,
    "num_devices": 1,
    "verbose": False,
}


def fit(workdir: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {"inputs": INPUTS, "labels": LABELS, "split": SPLIT}
    rnnmnist.fit(workdir=workdir, **arguments | SETTINGS | changes)
    return workdir


@pytest.fixture(scope="module")
def run_of_one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("runs") / "one")


@pytest.mark.slow
def test_the_temperature_has_the_least_validation_loss(run_of_one_seed: Path) -> None:
    workdir = run_of_one_seed
    model = rnnmnist.load(workdir)
    run = Network(Record(workdir), "best")
    network = run.on(make_single_device_mesh())
    assert model.temperature == Record(workdir).select("best").temperature > 1.1

    def loss(split: str, temperature: float) -> float:
        data = run.config.data
        sequences = read_inputs(run.task, data, INPUTS[split == SPLIT])
        examples = to_inputs(sequences, run.task, data)
        labels = LABELS[split == SPLIT]
        logits = network.logits(examples)
        metrics = compute_ensemble_metrics(logits, labels, temperature=temperature)
        return metrics.loss

    # The targets are a little less than certain, so the minimum is next to it.
    least = loss("validation", model.temperature)
    for factor in (0.6, 1.6):
        assert least < loss("validation", factor * model.temperature)
    result = trainer.result(workdir)
    assert result["temperature"] == model.temperature
    assert result["loss"] == pytest.approx(loss("test", model.temperature), rel=1e-6)
    assert result["loss"] < loss("test", 1) - 0.02


def error_rate(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return 1.0 * (logits.argmax(axis=-1) != labels)


def undefined_for_the_validation_split(
    logits: jax.Array, labels: jax.Array
) -> jax.Array:
    losses = -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]
    return losses / (len(labels) < 60)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_nonfinite_validation_loss_ends_the_run(
    tmp_path: Path, num_seeds: int
) -> None:
    """The training loss is finite. The checkpoint is not saved."""
    settings = {"num_steps": 4, "eval_every_steps": 2, "num_seeds": num_seeds}
    settings["batch_size"] = 16
    message = "^step 2: the validation loss for seed 0 is inf; [^\n]+$"
    with pytest.raises(rnnmnist.RunError, match=message):
        fit(tmp_path, loss=undefined_for_the_validation_split, **settings)
    assert Record(tmp_path).step == 0
    assert [line.split for line in logs.read(tmp_path)] == ["train"]


def test_training_and_validation_log_a_custom_metric(tmp_path: Path) -> None:
    """Each member has a value, under the name of the metric."""
    settings = {"num_steps": 4, "eval_every_steps": 2, "num_seeds": 2}
    workdir = fit(tmp_path / "run", metrics=error_rate, **settings)
    lines = logs.read(workdir)
    assert [line.split for line in lines] == ["train", "validation"] * 2
    for line in lines:
        assert line.metrics is not None
        expected = [1 - network.accuracy for network in line.members]
        assert line.metrics["error_rate"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_enough_validation_examples_the_temperature_follows_from_smoothing(
    tmp_path: Path, label_smoothing: float
) -> None:
    split = np.where(SPLIT == "validation", "test", SPLIT)
    split[np.flatnonzero(SPLIT == "validation")[:49]] = "validation"
    workdir = fit(tmp_path / "run", split=split, label_smoothing=label_smoothing)
    expected = smoothing_temperature(label_smoothing, num_classes=3)
    assert (expected == 1) == (label_smoothing == 0)
    assert Record(workdir).select("best").temperature == expected
    assert trainer.result(workdir)["temperature"] == expected
