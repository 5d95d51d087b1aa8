"""Exports: predictions of each format, compared with the predictions of the network."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support import random_examples, refused, save_network

from rnnmnist.commands import export
from rnnmnist.config.schema import LINEAR_CELL, Config, DataConfig, ModelConfig
from rnnmnist.data import datasets
from rnnmnist.errors import RunError
from rnnmnist.evaluation.inputs import read_inputs, to_inputs
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.probabilities import softmax
from rnnmnist.evaluation.splits import load_split
from rnnmnist.exporting import onnx_model
from rnnmnist.exporting.comparison import count_differences, exported_inputs
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.runs.records import Record
from rnnmnist.runtime.devices import make_single_device_mesh


def config_of(data: dict[str, Any], cell: str, **model: Any) -> Config:
    """Returns a configuration, for images if there is a view, else for sequences."""
    name: Any = "mnist5k" if "view" in data else "files"
    if cell == LINEAR_CELL:
        model |= {"num_layers": 2}
    return Config(
        data=DataConfig(name=name, **data),
        model=ModelConfig(cell, hidden_size=24, **model),
    )


FILL, ZERO = {"missing": "forward_fill"}, {"missing": "zero"}
BOTH = {"bidirectional": True}
DELTAS = {"deltas": True}
NETWORKS = {
    "2 layers of gru on pixels": config_of(
        {"view": "pixels"}, "gru", num_layers=2, window=56, stride=56
    ),
    "rnn on permuted pixels": config_of(
        {"view": "permuted"}, "rnn", pooling="mean", window=16, stride=16, **BOTH
    ),
    "lru on columns": config_of({"view": "columns"}, "lru", **DELTAS),
    "3 layers of lstm on one feature": config_of({}, "lstm", num_layers=3, **BOTH),
    "2 layers of lstm on windows": config_of(
        {}, "lstm", num_layers=2, pooling="mean", window=4, stride=3, dropout=0.5
    ),
    "gru on sequences": config_of(FILL, "gru", pooling="mean", **BOTH, **DELTAS),
    "rnn on windows": config_of(
        ZERO | {"normalize": "none"}, "rnn", window=4, stride=4
    ),
    "3 x lru on windows": config_of(
        ZERO, "lru", pooling="mean", window=8, stride=3, **BOTH, **DELTAS
    ).replace({"num_seeds": 3}),
    "2 x filters on sequences": config_of(FILL, "filters", **DELTAS).replace(
        {"num_seeds": 2}
    ),
}


def save(folder: Path, config: Config, data_dir: Path, features: int = 3) -> Network:
    """Saves and opens a network with random parameters."""
    paths = {"data.data_dir": str(data_dir)}
    if config.data.name == "files":
        path = folder / "sequences.npz"
        np.savez(path, **sequences(config.data.missing != "error", features))
        paths = {"data.path": str(path)}
    task, _ = datasets.load(config.replace(paths))
    workdir = save_network(folder / "run", config, task)
    return Network(Record(workdir), "best", paths)


def sequences(missing: bool, features: int) -> dict[str, Any]:
    """Returns sequences of different lengths, whose first feature has a large mean."""
    generator = np.random.default_rng(0)
    means, stds = [1e6 + 0.3, 0, -3][:features], [1, 1, 0.1][:features]
    inputs = generator.normal(means, stds, (240, 9, features)).astype(np.float32)
    lengths = generator.integers(2, 10, 240)
    lengths[:3] = 1  # more of them would be equal
    if missing:
        inputs[generator.random(inputs.shape) < 0.2] = np.nan
    inputs[np.arange(9) >= lengths[:, None]] = np.nan  # padding can be anything
    labels = np.array(["low", "middle", "high"])[generator.integers(0, 3, 240)]
    split = np.array(["train", "validation", "test"])[np.arange(240) % 3]
    return {"inputs": inputs, "labels": labels, "lengths": lengths, "split": split}


def flags_of(network: Network, output: Path) -> list[str]:
    """Returns the flags of `rnnmnist export`, without the format."""
    data = [f"--config.{name}={value}" for name, value in network.settings.items()]
    return [f"--workdir={network.workdir}", *data, f"--output={output}"]


def certificate_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "certificate.json").read_text())


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Network:
    config = config_of({"view": "rows"}, "lstm")
    return save(tmp_path_factory.mktemp("lstm"), config, data_dir)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_predicts_as_its_network(
    name: str, tmp_path: Path, data_dir: Path
) -> None:
    features = 1 if "one feature" in name else 3
    run = save(tmp_path, NETWORKS[name], data_dir, features)
    network = run.on(make_single_device_mesh("cpu"))
    _, _, examples = load_split(run)
    inputs = exported_inputs(run, examples)
    logits = network.calibrated_logits(examples)
    cases = [(inputs, logits), ([array[:1] for array in inputs], logits[:1])]
    if len(inputs) == 2:  # any number of time steps
        values, lengths = inputs
        one = [lengths.tolist().index(3)]
        cases.append(([values[one, :4], lengths[one]], logits[one]))
        complete = values[lengths == 9]
        longer = np.concatenate([complete, complete[::-1]], axis=1)
        times = 18 - np.arange(len(longer), dtype=np.int32) % 18
        data = run.config.data
        sequences = read_inputs(run.task, data, longer, lengths=times)
        expected = network.calibrated_logits(to_inputs(sequences, run.task, data))
        cases.append(([longer, times], expected))
    for format_name in FORMATS:
        module = importlib.import_module(f"rnnmnist.exporting.{format_name}_model")
        content = module.serialize(run)
        if format_name == "onnx":
            onnx.checker.check_model(content, full_check=True)
        predict = module.deserialize(content)
        for arrays, expected in cases:
            found = predict(*arrays)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=4e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_every_format_is_compared_and_replaced_with_force(
    tmp_path: Path, data_dir: Path
) -> None:
    output = tmp_path / "out"
    (output / "onnx").mkdir(parents=True)
    (output / "onnx" / "other").touch()
    (output / "onnx" / "certificate.json").touch()
    run = save(tmp_path, NETWORKS["3 x lru on windows"], data_dir)
    export.main([*flags_of(run, output), "--format=all", "--force"])
    for name in FORMATS:
        found = certificate_of(output, name)
        assert (found["examples"], found["differing"]) == (80, 0)
        content = (output / name / f"model.{name}").read_bytes()
        assert found["artefact_sha256"] == hashlib.sha256(content).hexdigest()
        assert set(FORMATS[name]) <= set(found["versions"])
    assert (output / "onnx" / "other").exists()


def test_onnx_has_native_operators_probabilities_and_metadata(lstm: Network) -> None:
    content = onnx_model.serialize(lstm)
    assert len(content) < 4 * lstm.num_parameters + 20_000
    session = onnxruntime.InferenceSession(content)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert json.loads(metadata["features"]) == list(lstm.task.feature_names)
    images = random_examples(5).stored
    logits, probabilities = session.run(None, {"images": images})
    np.testing.assert_allclose(probabilities, softmax(logits), rtol=1e-5)


def test_predictions_that_differ_by_rounding_are_ties() -> None:
    expected = np.array([[0, 1, 1.00005], [0, 1, 2], [-60, -50.004, -50]])
    found = np.array([[0, 1.1, 1], [3, 1, 2], [-60, -50, -50.001]])
    assert count_differences(found, expected, 1e-4) == (3, 2)
    assert count_differences(expected, expected, 1e-4) == (0, 0)


def test_a_missing_package_is_named(
    lstm: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", ("numpy", "absent"))
    flags = flags_of(lstm, tmp_path / "out")
    assert refused("export", *flags, "--format=onnx").endswith("pip install absent")
    assert not (tmp_path / "out").exists()


def test_a_user_defined_cell_is_not_exported_as_onnx(tmp_path: Path) -> None:
    setting = {"model.cell": "flax.linen:MGUCell"}
    config = config_of({"view": "rows"}, "gru").replace(setting)
    workdir = save_network(tmp_path / "run", config, datasets.load(config).task)
    flags = [f"--workdir={workdir}", "--config.model.cell=flax.linen:MGUCell"]
    message = refused("export", *flags, f"--output={tmp_path}", "--format=all")
    assert message.endswith("--format=stablehlo")


def test_rounding_of_inputs_to_float32_is_part_of_the_comparison(
    tmp_path: Path,
) -> None:
    """The certificate compares with the predictions that `evaluate` computes."""
    path = tmp_path / "data.npz"
    inputs = np.random.default_rng(0).normal([0, 1.767e9], [1, 6], (90, 9, 2))
    labels = np.arange(90) % 3
    np.savez(path, inputs=inputs, labels=labels, feature_names=["height", "seconds"])
    config = config_of({"path": str(path)}, "rnn")
    workdir = save_network(tmp_path / "run", config, datasets.load(config).task)
    flags = f"--workdir={workdir}", f"--output={tmp_path}", "--format=stablehlo"
    with pytest.raises(RunError, match="stablehlo"):
        export.main([*flags])
    found = certificate_of(tmp_path, "stablehlo")
    assert found["differing"] > found["ties"]
