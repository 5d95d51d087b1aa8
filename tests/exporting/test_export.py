"""Exports: predictions of every format, certificates, and their verification."""

import copy
import hashlib
import importlib
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
from rnnmnist.config.schema import Config
from rnnmnist.data import datasets
from rnnmnist.errors import RunError, UserError
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.exporting import certificates
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source
from rnnmnist.runs.checkpoints import Checkpoints
from rnnmnist.runs.checksums import named_leaves
from rnnmnist.runs.logs import Metrics

IMAGES = {"data.name": "mnist5k", "model.hidden_size": 24}
FILES = {"data.name": "files", "model.hidden_size": 24}
MEAN = {"model.pooling": "mean"}
PERMUTED = {"data.view": "permuted", "data.pixels_per_step": 16}
PIXELS = {"data.view": "pixels", "data.pixels_per_step": 56}
NETWORKS: dict[str, dict[str, Any]] = {
    "lstm": IMAGES,
    "lstm on columns": IMAGES | MEAN | {"data.view": "columns"},
    "gru on permuted pixels": IMAGES | PERMUTED | {"model.cell": "gru"},
    "rnn on pixels": IMAGES | PIXELS | {"model.cell": "rnn"},
    "lstm on sequences": FILES,
    "lstm on one feature": FILES,
    "gru on sequences": FILES
    | MEAN
    | {"model.cell": "gru", "data.missing": "forward_fill"},
    "rnn on sequences": FILES
    | {"model.cell": "rnn", "data.missing": "zero", "data.normalize": "none"},
    "lru on permuted pixels": IMAGES
    | PERMUTED
    | {"model.cell": "lru", "model.num_layers": 2},
    "lru on sequences": FILES
    | MEAN
    | {"model.cell": "lru", "model.num_layers": 2, "data.missing": "zero"},
    "mingru on columns": IMAGES
    | MEAN
    | {"model.cell": "mingru", "data.view": "columns"},
    "mingru on sequences": FILES
    | {"model.cell": "mingru", "model.num_layers": 2, "data.missing": "forward_fill"},
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
    folder: Path, settings: Mapping[str, Any], data_dir: Path, features: int = 3
) -> tuple[Path, dict[str, str | None]]:
    """Saves a network with random parameters; returns its workdir and data paths."""
    paths: dict[str, str | None] = {"data.data_dir": str(data_dir)}
    config = Config().replace(settings)
    if config.data.name == "files":
        folder.mkdir(exist_ok=True)
        missing = config.data.missing != "error"
        path = write_sequences(folder / "sequences.npz", missing, features)
        paths = {"data.path": str(path)}
    task, _ = datasets.load(config.replace(paths).data)
    params = random_params(model_of(config.model, task))
    metrics = Metrics.create(3, "validation", 500, [0], [1.0], [250])
    with Checkpoints(folder / "run", keep=1) as checkpoints:
        checkpoints.save(3, {"params": params}, config, task, metrics)
    return folder / "run", paths


def load(workdir: Path, paths: Mapping[str, str | None]) -> Source:
    return Source.load(TrainedNetwork(workdir, "best"), paths)


def write(name: str, source: Source, folder: Path) -> None:
    """Writes an export without its certificate and `predict.py`."""
    importlib.import_module(f"rnnmnist.exporting.write_{name}").write(source, folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Source:
    """An LSTM with an export beside its workdir; tests copy what they change."""
    folder = tmp_path_factory.mktemp("source")
    source = load(*save_network(folder, IMAGES, data_dir))
    certificates.write(source, "safetensors", folder / "out")
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
    source = load(*save_network(tmp_path, NETWORKS[name], data_dir, features))
    cases = [
        [array[:1] for array in source.inputs],
        [array[::-1].copy() for array in source.inputs],
    ]
    if len(source.inputs) == 2:  # any number of time steps
        values, lengths = source.inputs
        cases.append([values[:, :4], np.minimum(lengths, 4)])
        complete = values[lengths == 9]
        longer = np.concatenate([complete, complete[::-1]], axis=1)
        cases.append([longer, np.arange(len(longer), dtype=np.int32) % 18 + 1])
    network = source.network
    expected = [network.logits(network.inputs(*case))[0] for case in cases]
    for format_name in FORMATS:
        write(format_name, source, tmp_path)
        script = certificates.FOLDER / f"predict_{format_name}.py"
        predict = runpy.run_path(str(script))["load"](tmp_path)
        for inputs, logits in zip(cases, expected, strict=True):
            found = predict(*inputs)
            assert found.dtype == np.float32, name
            np.testing.assert_allclose(found, logits, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "examples"), [("rnn on pixels", 500), ("lru on sequences", 80)]
)
def test_every_format_is_certified(
    name: str, examples: int, tmp_path: Path, data_dir: Path
) -> None:
    saved = save_network(tmp_path, NETWORKS[name], data_dir)
    output = tmp_path / "out"
    export.main([*flags_of(*saved), "--format=all", f"--output={output}"])
    assert {path.name for path in output.iterdir()} == set(FORMATS)
    for format_name in FORMATS:
        found = json.loads((output / format_name / "certificate.json").read_text())
        assert (found["examples"], found["differing"]) == (examples, 0)
        assert 0 <= found["max_abs_difference"] < 1e-4, format_name


def test_onnx_has_native_operators_probabilities_and_metadata(
    source: Source, tmp_path: Path
) -> None:
    write("onnx", source, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    parameters = sum(leaf.size for _, leaf in named_leaves(source.params))
    assert len(content) < 4 * parameters + 20_000
    session = onnxruntime.InferenceSession(content)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert json.loads(metadata["params_sha256"]) == source.network.params_sha256
    logits, probabilities = session.run(None, {"images": source.inputs[0]})
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(
        probabilities, weights / weights.sum(-1, keepdims=True), rtol=1e-5
    )


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
    assert capsys.readouterr().out == "safetensors: predict.py changed\n"
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
    workdir, _ = save_network(tmp_path, IMAGES | {"model.hidden_size": 23}, data_dir)
    content = json.loads(path.read_text()) | {"workdir": str(workdir)}
    path.write_text(json.dumps(content))
    ((_, changes),) = certificates.verify(exported)
    assert changes == [f"the parameters in {workdir} changed"]
    relabelled = source._replace(labels=source.labels[::-1])
    saved = msgspec.json.decode(path.read_bytes(), type=certificates.Certificate)
    changes = certificates.find_changes(saved, relabelled, path.parent)
    assert changes == ["the test examples of mnist5k changed"]


def test_a_changed_certificate_is_a_change(exported: Path) -> None:
    path = exported / "safetensors/certificate.json"
    content = json.loads(path.read_text())
    for change in ({"files": [1]}, {"workdir": 3}, {"step": "best"}):
        path.write_text(json.dumps(content | change))
        ((_, changes),) = certificates.verify(exported)
        assert changes[0].startswith("certificate.json is damaged: "), change
    path.write_text(json.dumps(content | {"correct": 1, "artefact_sha256": "0"}))
    ((_, changes),) = certificates.verify(exported)
    assert [change.split()[0] for change in changes] == ["artefact_sha256", "correct"]
    path.unlink()
    ((_, changes),) = certificates.verify(exported)
    assert "No such file" in changes[0]


def test_an_export_with_other_logits_is_not_written(
    source: Source, tmp_path: Path
) -> None:
    wrong = source._replace(logits=source.logits + 0.01)
    with pytest.raises(RunError, match="is not the network"):
        certificates.write(wrong, "safetensors", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_different_predictions_are_counted(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = source.logits.copy()
    first, second = logits[5].argsort()[-2:]
    logits[5, [first, second]] = logits[5, [second, first]]  # within rounding
    monkeypatch.setattr(certificates, "MAX_DIFFERENCE", 100)
    wrong = source._replace(logits=logits)
    monkeypatch.setattr(Source, "load", lambda *_: wrong)
    flags = flags_of(source.network.workdir, source.data_paths)
    output = tmp_path / "out"
    with pytest.raises(RunError, match=r"safetensors in .*/out predict another class"):
        export.main([*flags, "--format=safetensors", f"--output={output}"])
    content = json.loads((output / "safetensors/certificate.json").read_text())
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
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = copy.copy(source.network)
    network.config = network.config.replace({"num_seeds": 2})
    with pytest.raises(UserError, match="num_seeds=2"):
        Source.load(network, source.data_paths)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda package: None if package == "onnx" else find_spec(package),
    )
    flags = flags_of(source.network.workdir, source.data_paths)
    flags += ["--format=onnx", f"--output={tmp_path / 'out'}"]
    assert refused("export", *flags).endswith("pip install onnx")
    assert not (tmp_path / "out").exists()


def test_a_cell_of_a_user_is_exported_as_stablehlo_only(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = tmp_path / "own.py"
    cell.write_text("from flax.linen import GRUCell as Own\n")
    sha256 = hashlib.sha256(cell.read_bytes()).hexdigest()
    settings = {"model.cell": f"{cell}:Own", "model.cell_sha256": sha256}
    saved = save_network(tmp_path, FILES | settings, data_dir)
    flags = [*flags_of(*saved), f"--output={tmp_path / 'out'}"]
    assert refused("export", *flags, "--format=all").endswith("--format=stablehlo")
    export.main([*flags, "--format=stablehlo"])
    assert "80 of 80" in capsys.readouterr().out


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
