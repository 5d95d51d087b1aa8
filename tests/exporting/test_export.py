"""Exports: predictions of every format, certificates, and their verification."""

import contextlib
import hashlib
import importlib
import json
import runpy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import onnxruntime
import pytest
from support import refused, save_network

from rnnmnist import export
from rnnmnist.config.schema import CELLS, LINEAR_CELLS, Config, DataConfig, ModelConfig
from rnnmnist.data import datasets
from rnnmnist.errors import RunError
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.evaluation.predictions import softmax
from rnnmnist.exporting import certificates
from rnnmnist.exporting.formats import FORMATS, SUPPORTED_CELLS
from rnnmnist.exporting.source import Source, combine
from rnnmnist.runs.checkpoints import named_leaves


def config_of(
    cell: str,
    pooling: Any = "last",
    window: int = 1,
    stride: int | None = None,
    differences: bool = False,
    bidirectional: bool = False,
    **data: Any,
) -> Config:
    """A configuration for images if `data` has a view, else for sequences."""
    name: Any = "mnist5k" if "view" in data else "files"
    layers = 2 if cell in LINEAR_CELLS else 1
    model = ModelConfig(
        cell,
        hidden_size=24,
        num_layers=layers,
        pooling=pooling,
        window=window,
        stride=stride,
        differences=differences,
        bidirectional=bidirectional,
    )
    return Config(data=DataConfig(name=name, **data), model=model)


NETWORKS = {
    "lstm": config_of("lstm", view="rows"),
    "gru on pixels": config_of("gru", "last", 56, 56, view="pixels"),
    "rnn on permuted pixels": config_of(
        "rnn", "mean", 16, 16, bidirectional=True, view="permuted"
    ),
    "mingru on columns": config_of("mingru", view="columns", differences=True),
    "lstm on one feature": config_of("lstm", bidirectional=True),
    "mingru on sequences": config_of("mingru", bidirectional=True),
    "gru on sequences": config_of(
        "gru", "mean", 1, 1, True, bidirectional=True, missing="forward_fill"
    ),
    "rnn on windows": config_of("rnn", "last", 4, 4, missing="zero", normalize="none"),
    "lru on windows": config_of("lru", "mean", 8, 3, True, True, missing="zero"),
}
SEVERAL = {"lstm": 2, "lru on windows": 3}
NETWORKS |= {
    f"{count} x {name}": NETWORKS[name].replace({"num_seeds": count})
    for name, count in SEVERAL.items()
}


def save(
    folder: Path, config: Config, data_dir: Path, features: int = 3
) -> tuple[Path, dict[str, str | None]]:
    """Saves a network with random parameters; returns its workdir and data paths."""
    paths: dict[str, str | None] = {"data.data_dir": str(data_dir)}
    if config.data.name == "files":
        path = folder / "sequences.npz"
        np.savez(path, **sequences(config.data.missing != "error", features))
        paths = {"data.path": str(path)}
    task, _ = datasets.load(config.replace(paths).data)
    return save_network(folder / "run", config, task), paths


def sequences(missing: bool, features: int) -> dict[str, Any]:
    """Sequences of unequal lengths, the first feature with a large mean."""
    generator = np.random.default_rng(0)
    means, stds = [1e6 + 0.3, 0, -3][:features], [1, 1, 0.1][:features]
    inputs = generator.normal(means, stds, (240, 9, features)).astype(np.float32)
    lengths = generator.integers(1, 10, 240)
    if missing:
        inputs[generator.random(inputs.shape) < 0.2] = np.nan
    inputs[np.arange(9) >= lengths[:, None]] = np.nan  # padding can be anything
    labels = np.array(["low", "middle", "high"])[generator.integers(0, 3, 240)]
    split = np.array(["train", "validation", "test"])[np.arange(240) % 3]
    return {"inputs": inputs, "labels": labels, "lengths": lengths, "split": split}


def load(workdir: Path, paths: Mapping[str, str | None]) -> Source:
    return Source.create(TrainedNetwork(workdir, "best", paths=paths))


def flags_of(workdir: Path, paths: Mapping[str, str | None], output: Path) -> list[str]:
    """Returns the flags of `rnnmnist.export` but the format."""
    data = [f"--config.{name}={value}" for name, value in paths.items()]
    return [f"--workdir={workdir}", *data, f"--output={output}"]


def write(name: str, source: Source, folder: Path) -> None:
    """Writes an export without its certificate and `predict.py`."""
    importlib.import_module(f"rnnmnist.exporting.write_{name}").write(source, folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Source:
    """An LSTM with an export beside its workdir; tests copy what they change."""
    folder = tmp_path_factory.mktemp("source")
    source = load(*save(folder, NETWORKS["lstm"], data_dir))
    certificates.write(source, "stablehlo", folder / "out")
    return source


@pytest.fixture
def exported(source: Source, tmp_path: Path) -> Path:
    """A copy of that export."""
    return shutil.copytree(source.network.workdir.with_name("out"), tmp_path / "out")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_predicts_as_its_source(
    name: str, tmp_path: Path, data_dir: Path
) -> None:
    features = 1 if "one feature" in name else 3
    source = load(*save(tmp_path, NETWORKS[name], data_dir, features))
    inputs, logits = source.inputs, source.logits
    cases = [([array[79::-1].copy() for array in inputs], logits[79::-1])]
    if len(inputs) == 1:
        cases.append(([inputs[0][:1]], logits[:1]))
    else:  # any number of time steps
        values, lengths = inputs
        one = [lengths.tolist().index(3)]
        cases.append(([values[one, :4], lengths[one]], logits[one]))
        complete = values[lengths == 9]
        longer = np.concatenate([complete, complete[::-1]], axis=1)
        times = 18 - np.arange(len(longer), dtype=np.int32) % 18
        expected = combine(source.network.logits(source.network.inputs(longer, times)))
        cases.append(([longer, times], expected))
        refused = values.copy()  # by training; padding is NaN, too
        expected = logits.copy()
        missing = NETWORKS[name].data.missing
        for index, value in enumerate([np.inf, np.nan][: 1 + (missing == "error")]):
            refused[index::3, 0, 0] = value
            expected[index::3] = np.nan
        cases.append(([refused, lengths], expected))
    for format_name in FORMATS:
        write(format_name, source, tmp_path)
        script = certificates.FOLDER / f"predict_{format_name}.py"
        predict = runpy.run_path(str(script))["load"](tmp_path)
        for arrays, expected in cases:
            with np.errstate(all="ignore"):
                found = predict(*arrays)
            assert found.dtype == np.float32, name
            np.testing.assert_allclose(found, expected, atol=4e-5, err_msg=name)


def test_the_onnx_script_refuses_an_empty_batch(source: Source, tmp_path: Path) -> None:
    """Which would end the process of onnxruntime."""
    write("onnx", source, tmp_path)
    script = certificates.FOLDER / "predict_onnx.py"
    predict = runpy.run_path(str(script))["load"](tmp_path)
    with pytest.raises(ValueError, match="no examples"):
        predict(source.inputs[0][:0])


def test_every_format_is_certified(tmp_path: Path, data_dir: Path) -> None:
    output = tmp_path / "out"
    saved = save(tmp_path, NETWORKS["3 x lru on windows"], data_dir)
    flags = flags_of(*saved, output)
    export.main([*flags, "--format=all"])
    paths = list(output.glob("*/certificate.json"))
    assert {path.parent.name for path in paths} == set(FORMATS)
    found = [json.loads(path.read_text()) for path in paths]
    network = TrainedNetwork(saved[0], "best", paths=saved[1])
    correct = network.score(*network.load_split(None, "test")).ensemble_correct
    for one in found:
        assert (one["examples"], one["differing"]) == (80, 0)
        assert one["correct"] == correct
    assert 0 < max(one["max_abs_difference"] for one in found) < 1e-4


def test_onnx_has_native_operators_probabilities_and_metadata(
    source: Source, tmp_path: Path
) -> None:
    write("onnx", source, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    parameters = sum(leaf.size for _, leaf in named_leaves(source.members))
    assert len(content) < 4 * parameters + 20_000
    session = onnxruntime.InferenceSession(content)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert json.loads(metadata["features"]) == list(source.network.task.feature_names)
    assert json.loads(metadata["params_sha256"]) == source.network.params_sha256
    logits, probabilities = session.run(None, {"images": source.inputs[0]})
    np.testing.assert_allclose(probabilities, softmax(logits), rtol=1e-5)


def test_an_export_is_verified_replaced_with_force_and_certified(
    source: Source, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = exported / "stablehlo" / "predict.py"
    script.write_text("raise SystemExit('was run')")
    with pytest.raises(RunError, match="changed"):
        export.main([f"--verify={exported}"])
    assert capsys.readouterr().out == "stablehlo: predict.py changed\n"
    flags = flags_of(source.network.workdir, source.network.paths, exported)
    assert "--force" in refused("export", *flags, "--format=stablehlo")
    export.main([*flags, "--format=stablehlo", "--force"])
    assert "500 of 500 predictions are equal" in capsys.readouterr().out
    assert [path.name for path in exported.iterdir()] == ["stablehlo"]
    export.main([f"--verify={exported}"])
    assert capsys.readouterr().out.endswith("stablehlo: unchanged\n")


def changes_with(exported: Path, **changes: object) -> list[str]:
    """Verifies an export after changes of its certificate."""
    path = exported / "stablehlo/certificate.json"
    content = path.read_text()
    path.write_text(json.dumps(json.loads(content) | changes))
    ((_, found),) = certificates.verify(exported, None, {})
    path.write_text(content)
    return found


def test_another_checkpoint_or_other_data_are_changes(
    source: Source, exported: Path, tmp_path: Path, data_dir: Path
) -> None:
    workdir, _ = save(tmp_path, NETWORKS["gru on pixels"], data_dir)
    changes = changes_with(exported, workdir=str(workdir))
    assert changes == [f"the parameters in {workdir} changed"]
    folder = exported / "stablehlo"
    content = (folder / "certificate.json").read_bytes()
    saved = msgspec.json.decode(content, type=certificates.Certificate)
    relabelled = source._replace(labels=source.labels[::-1])
    changes = certificates.find_changes(saved, relabelled, folder)
    assert changes == ["the test examples of mnist5k changed"]


def test_an_export_of_a_moved_run_is_verified(exported: Path, source: Source) -> None:
    network = source.network
    path = exported / "stablehlo/certificate.json"
    workdir, data, _ = flags_of(network.workdir, network.paths, exported)
    content = path.read_text().replace(str(network.workdir), "/moved")
    path.write_text(content.replace(data.partition("=")[2], "/lost"))
    verify = f"--verify={exported}"
    assert "--workdir: /moved does not exist" in refused("export", verify, data)
    export.main([verify, workdir, data])


def test_a_changed_certificate_is_a_change(exported: Path) -> None:
    for change in ({"files": [1]}, {"workdir": 3}, {"step": "best"}):
        (line,) = changes_with(exported, **change)
        assert line.startswith("certificate.json is damaged: "), change
    changes = changes_with(exported, correct=1, artefact_sha256="0")
    assert [line.split()[0] for line in changes] == ["artefact_sha256", "correct"]
    (exported / "stablehlo/certificate.json").unlink()
    ((_, (line,)),) = certificates.verify(exported, None, {})
    assert "No such file" in line


@pytest.mark.parametrize(("std", "is_exact"), [(6.0, False), (6e6, True)])
def test_digits_that_float32_does_not_hold_are_named_and_counted(
    std: float, is_exact: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate compares with what `evaluate` computes."""
    path = tmp_path / "data.npz"
    inputs = np.random.default_rng(0).normal([0, 1.767e9], [1, std], (90, 9, 2))
    labels = np.arange(90) % 3
    np.savez(path, inputs=inputs, labels=labels, feature_names=["height", "seconds"])
    paths: dict[str, str | None] = {"data.path": str(path)}
    config = NETWORKS["rnn on windows"].replace({"data.normalize": "standardize"})
    task, _ = datasets.load(config.replace(paths).data)
    workdir = save_network(tmp_path / "run", config, task)
    flags = flags_of(workdir, paths, tmp_path / "out")
    with contextlib.suppress(RunError):
        export.main([*flags, "--format=stablehlo"])
    content = (tmp_path / "out/stablehlo/certificate.json").read_text()
    certificate = json.loads(content)
    assert (certificate["differing"] == 0) == is_exact
    assert (certificate["max_abs_difference"] < 1e-3) == is_exact
    named = [message.split()[2] for message in caplog.messages]
    assert named == ([] if is_exact else ["seconds"])


def test_an_export_with_other_logits_is_not_written(
    source: Source, tmp_path: Path
) -> None:
    wrong = source._replace(members=jax.tree.map(np.negative, source.members))
    with pytest.raises(RunError, match="is not the network"):
        certificates.write(wrong, "stablehlo", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_different_predictions_are_counted(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = source.logits.copy()
    first, second = logits[5].argsort()[-2:]
    logits[5, [first, second]] = logits[5, [second, first]]  # within rounding
    wrong = source._replace(logits=logits)
    monkeypatch.setattr(Source, "create", lambda *_: wrong)
    output = tmp_path / "out"
    flags = flags_of(source.network.workdir, source.network.paths, output)
    with pytest.raises(RunError, match=r"stablehlo in .*/out predict another class"):
        export.main([*flags, "--format=stablehlo"])
    content = json.loads((output / "stablehlo/certificate.json").read_text())
    assert content["differing"] == 1


def test_a_missing_package_is_named(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", ("numpy", "absent"))
    flags = flags_of(source.network.workdir, source.network.paths, tmp_path / "out")
    assert refused("export", *flags, "--format=onnx").endswith(": pip install absent")
    assert not (tmp_path / "out").exists()


def test_a_cell_of_another_kind_is_exported_as_stablehlo_only(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package has one cell more, with a name in the registry and nothing else."""
    assert {config.model.cell for config in NETWORKS.values()} == {*SUPPORTED_CELLS}
    monkeypatch.setitem(CELLS, "another", "flax.linen:MGUCell")
    monkeypatch.setattr(ModelConfig, "__post_init__", lambda self: None)
    saved = save(tmp_path, config_of("another"), data_dir)
    flags = flags_of(*saved, tmp_path / "out")
    assert refused("export", *flags, "--format=all").endswith("--format=stablehlo")
    export.main([*flags, "--format=stablehlo"])


def test_a_cell_of_a_user_is_exported_as_stablehlo_only(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = tmp_path / "own.py"
    cell.write_text("from flax.linen import GRUCell as Own\n")
    sha256 = hashlib.sha256(cell.read_bytes()).hexdigest()
    settings = {"model.cell": f"{cell}:Own", "model.cell_sha256": sha256}
    saved = save(tmp_path, config_of("gru").replace(settings), data_dir)
    flags = flags_of(*saved, tmp_path / "out")
    assert refused("export", *flags, "--format=all").endswith("--format=stablehlo")
    export.main([*flags, "--format=stablehlo"])
    assert "80 of 80" in capsys.readouterr().out
