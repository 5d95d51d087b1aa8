"""Exports: predictions of every format, certificates, and their verification."""

import hashlib
import importlib.util
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from support import model_of, random_params, refused

from rnnmnist import export
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data import datasets
from rnnmnist.errors import RunError
from rnnmnist.exporting import folders
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.logs import Metrics

NETWORKS: dict[str, tuple[DataConfig, ModelConfig]] = {
    "lstm": (DataConfig(), ModelConfig()),
    "lstm on columns": (DataConfig(view="columns"), ModelConfig(pooling="mean")),
    "gru on permuted pixels": (
        DataConfig(view="permuted", pixels_per_step=16),
        ModelConfig(cell="gru"),
    ),
    "rnn on pixels": (
        DataConfig(view="pixels", pixels_per_step=56),
        ModelConfig(cell="rnn"),
    ),
    "lstm on sequences": (DataConfig(name="files"), ModelConfig()),
    "lstm on one feature": (DataConfig(name="files"), ModelConfig()),
    "gru on sequences": (
        DataConfig(name="files", missing="forward_fill"),
        ModelConfig(cell="gru", pooling="mean"),
    ),
    "rnn on sequences": (
        DataConfig(name="files", missing="zero", normalize="none"),
        ModelConfig(cell="rnn"),
    ),
    "lru on permuted pixels": (
        DataConfig(view="permuted", pixels_per_step=16),
        ModelConfig(cell="lru", num_layers=2),
    ),
    "lru on sequences": (
        DataConfig(name="files", missing="zero"),
        ModelConfig(cell="lru", num_layers=2, pooling="mean"),
    ),
    "mingru on columns": (
        DataConfig(view="columns"),
        ModelConfig(cell="mingru", pooling="mean"),
    ),
    "mingru on sequences": (
        DataConfig(name="files", missing="forward_fill"),
        ModelConfig(cell="mingru", num_layers=2),
    ),
}


def write_sequences(path: Path, missing: bool, features: int) -> Path:
    """Writes sequences of unequal lengths, the first feature with a large mean."""
    generator = np.random.default_rng(0)
    inputs = generator.normal([1e6 + 0.3, 0, -3], [1, 1, 0.1], (240, 9, 3))
    inputs = inputs[..., :features].astype(np.float32)
    lengths = generator.integers(1, 10, 240)
    if missing:
        inputs[generator.random(inputs.shape) < 0.2] = np.nan
    inputs[np.arange(9) >= lengths[:, None]] = np.nan  # padding can be anything
    labels = np.array(["low", "middle", "high"])[generator.integers(0, 3, 240)]
    split = np.array(["train", "validation", "test"])[np.arange(240) % 3]
    np.savez(path, inputs=inputs, labels=labels, lengths=lengths, split=split)
    return path


def save_network(
    folder: Path,
    data: DataConfig,
    model: ModelConfig,
    data_dir: Path,
    settings: dict[str, Any] | None = None,
    features: int = 3,
) -> tuple[Path, dict[str, str | None]]:
    """Saves a network with random parameters; returns its workdir and data paths."""
    paths: dict[str, str | None] = {"data.data_dir": str(data_dir)}
    name = "mnist5k"
    if data.name == "files":
        folder.mkdir(exist_ok=True)
        missing = data.missing != "error"
        path = write_sequences(folder / "sequences.npz", missing, features)
        paths, name = {"data.path": str(path)}, "files"
    config = Config(data=data, model=model)
    config = config.replace(
        {"data.name": name, "model.hidden_size": 24} | (settings or {})
    )
    task, _ = datasets.load(config.replace(paths).data)
    params = random_params(model_of(config.model, task))
    metrics = Metrics.create(3, "validation", 500, [0], [1.0], [250])
    with Checkpoints(folder / "run", keep=1) as checkpoints:
        checkpoints.save(3, {"params": params}, config, task, metrics)
    return folder / "run", paths


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Source:
    """An LSTM with an export beside its workdir; tests copy what they change."""
    folder = tmp_path_factory.mktemp("source")
    workdir, paths = save_network(folder, *NETWORKS["lstm"], data_dir)
    source = Source.load(workdir, "best", paths)
    folders.write(source, "safetensors", folder / "out")
    return source


@pytest.fixture
def exported(source: Source, tmp_path: Path) -> Path:
    """A copy of that export."""
    return shutil.copytree(source.network.workdir.with_name("out"), tmp_path / "out")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_predicts_as_its_source(
    name: str, tmp_path: Path, data_dir: Path
) -> None:
    data, model = NETWORKS[name]
    features = 1 if "one feature" in name else 3
    workdir, paths = save_network(tmp_path, data, model, data_dir, features=features)
    source = Source.load(workdir, "best", paths)
    cases = [
        [array[:1] for array in source.inputs],
        [array[::-1].copy() for array in source.inputs],
    ]
    if data.name == "files":  # any number of time steps
        values, lengths = source.inputs
        cases.append([values[:, :4], np.minimum(lengths, 4)])
        complete = values[lengths == 9]
        longer = np.concatenate([complete, complete[::-1]], axis=1)
        cases.append([longer, np.arange(len(longer), dtype=np.int32) % 18 + 1])
    network = source.network
    expected = [network.logits(network.inputs(*case))[0] for case in cases]
    for format_name, format in FORMATS.items():
        format.write(source, tmp_path)
        script = Path(folders.__file__).with_name(f"predict_{format_name}.py")
        predict = runpy.run_path(str(script))["load"](tmp_path)
        for inputs, logits in zip(cases, expected, strict=True):
            found = predict(*inputs)
            assert found.dtype == np.float32, name
            np.testing.assert_allclose(found, logits, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("data", "model", "examples"),
    [
        (DataConfig(), ModelConfig(cell="lru", num_layers=2), 500),
        (DataConfig(view="pixels"), ModelConfig(cell="gru"), 500),
        (DataConfig(name="files"), ModelConfig(cell="lru"), 80),
    ],
    ids=["lru", "gru on pixels", "npz with lengths"],
)
def test_every_format_is_certified(
    data: DataConfig, model: ModelConfig, examples: int, tmp_path: Path, data_dir: Path
) -> None:
    saved = save_network(tmp_path, data, model, data_dir)
    output = tmp_path / "out"
    export.main([*flags_of(*saved), "--format=all", f"--output={output}"])
    assert {path.name for path in output.iterdir()} == set(FORMATS)
    for name in FORMATS:
        found = json.loads((output / name / "certificate.json").read_text())
        assert (found["examples"], found["differing"]) == (examples, 0)
        assert 0 <= found["max_abs_difference"] < 1e-4, name


def test_onnx_has_native_operators_probabilities_and_metadata(
    source: Source, tmp_path: Path
) -> None:
    FORMATS["onnx"].write(source, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    assert len(content) < 4 * sum(map(np.size, leaves(source.params))) + 20_000
    session = onnxruntime.InferenceSession(content)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert json.loads(metadata["params_sha256"]) == source.params_sha256
    logits, probabilities = session.run(None, {"images": source.inputs[0]})
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(
        probabilities, weights / weights.sum(-1, keepdims=True), rtol=1e-5
    )


def leaves(tree: Any) -> list[np.ndarray]:
    """Returns the arrays of nested dictionaries."""
    if not isinstance(tree, dict):
        return [tree]
    return [leaf for value in tree.values() for leaf in leaves(value)]


def flags_of(workdir: Path, paths: Mapping[str, str | None]) -> list[str]:
    """Returns the flags of `rnnmnist.export` for a run and its data."""
    data = [f"--config.{name}={value}" for name, value in paths.items()]
    return [f"--workdir={workdir}", *data]


def test_an_export_is_verified_replaced_with_force_and_certified(
    source: Source, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported / "safetensors"
    (folder / "predict.py").write_text("raise SystemExit('was run')")
    with pytest.raises(RunError, match="changed"):
        export.main([f"--verify={exported}"])
    assert capsys.readouterr().out == "safetensors: predict.py has changed\n"
    arguments = flags_of(source.network.workdir, source.data_paths)
    arguments += ["--format=safetensors", f"--output={exported}"]
    assert "--force" in refused("export", *arguments)
    export.main([*arguments, "--force"])
    assert "500 of 500 predictions are equal" in capsys.readouterr().out
    assert [path.name for path in exported.iterdir()] == ["safetensors"]
    found = json.loads((folder / "certificate.json").read_text())
    assert found["examples"] == 500
    assert found["differing"] == 0
    assert 0 < found["max_abs_difference"] < 1e-4
    export.main([f"--verify={exported}"])
    assert capsys.readouterr().out.endswith("safetensors: unchanged\n")


def test_the_model_card_runs_with_neither_jax_nor_this_package(
    exported: Path,
) -> None:
    folder = exported / "safetensors"
    card = (folder / "README.md").read_text()
    example = card.partition("```python\n")[2].partition("```")[0]
    script = (
        "import sys; sys.modules['jax'] = sys.modules['rnnmnist'] = None\n"
        "import numpy as np\n"
        "images = np.zeros((2, 28, 28), np.uint8)\n"
        f"{example}\n"
        "print(logits.shape, len(classes))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert finished.stdout == "(2, 10) 10\n", finished.stderr


def test_another_checkpoint_or_other_data_are_changes(
    source: Source, exported: Path, tmp_path: Path, data_dir: Path
) -> None:
    path = exported / "safetensors/certificate.json"
    settings = {"model.hidden_size": 23}
    workdir, _ = save_network(tmp_path, *NETWORKS["lstm"], data_dir, settings)
    content = json.loads(path.read_text()) | {"workdir": str(workdir)}
    path.write_text(json.dumps(content))
    ((_, changes),) = folders.verify(exported)
    assert changes == [f"the parameters in {workdir} have changed"]
    relabelled = source._replace(labels=source.labels[::-1])
    saved = msgspec.json.decode(path.read_bytes(), type=folders.Certificate)
    changes = folders.find_changes(saved, relabelled, path.parent)
    assert changes == ["the test examples of mnist5k have changed"]


def test_a_changed_certificate_is_a_change(exported: Path) -> None:
    path = exported / "safetensors/certificate.json"
    content = json.loads(path.read_text())
    for change in (
        {"data_paths": {"seed": "1"}},
        {"files": [1]},
        {"workdir": 3},
        {"differences": [{"example": 1}]},
        {"step": "best"},
    ):
        path.write_text(json.dumps(content | change))
        ((_, changes),) = folders.verify(exported)
        assert changes[0].startswith("certificate.json is damaged: "), change
    path.write_text(json.dumps(content | {"correct": 1, "artefact_sha256": "0"}))
    ((_, changes),) = folders.verify(exported)
    assert [change.split()[0] for change in changes] == ["artefact_sha256", "correct"]
    path.unlink()
    ((_, changes),) = folders.verify(exported)
    assert "No such file" in changes[0]


def test_an_export_with_other_logits_is_not_written(
    source: Source, tmp_path: Path
) -> None:
    wrong = source._replace(logits=source.logits + 0.01)
    with pytest.raises(RunError, match="is not the network"):
        folders.write(wrong, "safetensors", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_different_predictions_are_listed(source: Source, tmp_path: Path) -> None:
    logits = source.logits.copy()
    first, second = logits[5].argsort()[-2:]
    logits[5, [first, second]] = logits[5, [second, first]]  # within rounding
    wrong = source._replace(logits=logits)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(folders, "MAX_DIFFERENCE", 100)
    with monkey.context():
        found = folders.write(wrong, "safetensors", tmp_path / "out")
    assert found.differences == [folders.Difference(5, int(first), int(second))]
    assert f"example 5: {second}, not {first}" in found.describe()
    content = json.loads((tmp_path / "out/safetensors/certificate.json").read_text())
    assert content["differing"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=onnx", "--output=out"], "--workdir: is required"),
        (["--workdir=DIR", "--output=out"], "--format: is required"),
        (["--workdir=DIR", "--format=onnx"], "--output: is required"),
        (["--workdir=DIR", "--format=pb", "--output=out"], "--format: invalid choice"),
        (["--verify=out", "--format=onnx"], "--verify: takes a folder and no other"),
        (["--verify="], "verify: must name a directory"),
        (["--verify", "none"], "verify: "),
        (["--output=~none/x", "--workdir=DIR", "--format=onnx"], "~none/x: "),
        (
            ["--output=DIR/3/_CHECKPOINT_METADATA", "--workdir=DIR", "--format=onnx"],
            "is a file",
        ),
        (["--verify=DIR"], "verify: DIR has no folder onnx or"),
        (["--workdir=none", "--format=onnx", "--output=out"], "workdir: "),
        (["--workdir=DIR", "--fromat=onnx"], "did you mean '--format'"),
    ],
)
def test_a_mistake_is_refused(
    flags: list[str],
    message: str,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = str(source.network.workdir)
    monkeypatch.chdir(tmp_path)
    found = refused("export", *(flag.replace("DIR", workdir) for flag in flags))
    assert message.replace("DIR", workdir) in found
    assert not Path("out").exists()


def test_what_cannot_be_exported_is_refused(
    source: Source, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = [f"--output={tmp_path / 'out'}", "--format=onnx"]
    saved = save_network(tmp_path, *NETWORKS["lstm"], data_dir, {"num_seeds": 2})
    assert "num_seeds=2" in refused("export", *flags_of(*saved), *output)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda package: None if package == "onnx" else find_spec(package),
    )
    flags = flags_of(source.network.workdir, source.data_paths)
    assert refused("export", *flags, *output).endswith("pip install onnx")
    assert not (tmp_path / "out").exists()


def test_a_cell_of_a_user_is_exported_as_stablehlo_only(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = tmp_path / "own.py"
    cell.write_text("from flax.linen import GRUCell as Own\n")
    sha256 = hashlib.sha256(cell.read_bytes()).hexdigest()
    settings = {"model.cell": f"{cell}:Own", "model.cell_sha256": sha256}
    saved = save_network(tmp_path, *NETWORKS["lstm on sequences"], data_dir, settings)
    output = tmp_path / "out"
    flags = [*flags_of(*saved), f"--output={output}"]
    assert refused("export", *flags, "--format=onnx").endswith("--format=stablehlo")
    export.main([*flags, "--format=all"])
    assert "80 of 80" in capsys.readouterr().out
    assert [path.name for path in output.iterdir()] == ["stablehlo"]


def test_a_damaged_checkpoint_is_not_exported(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    workdir = shutil.copytree(source.network.workdir, tmp_path / "run")
    files = (path for path in (workdir / "3/params").rglob("*") if path.is_file())
    array = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(content)
    flags = flags_of(workdir, source.data_paths)
    with pytest.raises(RunError, match=r"damaged|differs"):
        export.main([*flags, "--format=safetensors", f"--output={output}"])
    assert not output.exists()
