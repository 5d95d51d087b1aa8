"""Runs on files of users: training, evaluation, prediction, and what is refused.

Most runs have the same settings and 30 training sequences, and share their programs.
"""

import contextlib
import io
import json
import shutil
import sysconfig
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import trainer
from support import Once, file_times, refused

import rnnmnist
from rnnmnist.commands import evaluate, predict, report
from rnnmnist.commands import train as train_command
from rnnmnist.data import placement
from rnnmnist.errors import UserError
from rnnmnist.runs.workdir import lock
from rnnmnist.runtime.machine import Memory

CLASSES = np.array(["low", "middle", "high"])
SETTINGS = {
    "model.hidden_size": 8,
    "model.num_layers": 1,
    "train.batch_size": 16,
    "train.learning_rate": 0.03,
    "train.schedule": "constant",
    "train.warmup_fraction": 0,
    "train.num_steps": 20,
    "train.log_every_steps": 10,
    "train.eval_every_steps": 20,
    "execution.num_devices": 2,
}
TINY = (
    "--num_processes=1",
    "--config=files",
    *(f"--config.{name}={value}" for name, value in SETTINGS.items()),
)


def arrays(count: int = 60, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Noise of unequal lengths, whose mean tells the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    splits = np.array(["train", "train", "validation", "test"])
    inputs = generator.normal(size=(count, 12, 2))
    return {
        "inputs": inputs + labels[:, None, None],
        "labels": CLASSES[labels],
        "lengths": generator.integers(4, 13, count),
        "split": splits[np.arange(count) % 4],
        "feature_names": np.array(["x", "y"]),
        **changes,
    }


def save(path: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez(path, **{k: value for k, value in content.items() if value is not None})  # type: ignore[arg-type]
    return path


def save_folder(folder: Path, content: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, array in content.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def as_table(content: dict[str, np.ndarray]) -> pa.Table:
    lengths = content["lengths"]
    valid = np.arange(12) < lengths[:, None]
    return pa.table(
        {
            "sequence": np.repeat(np.arange(len(lengths)), lengths),
            "time": np.concatenate([np.arange(length) for length in lengths]),
            "x": content["inputs"][..., 0][valid],
            "y": content["inputs"][..., 1][valid],
            "label": np.repeat(content["labels"], lengths),
            "split": np.repeat(content["split"], lengths),
        }
    )


def as_ts(content: dict[str, np.ndarray]) -> bytes:
    lines = ["@problemName levels", f"@classLabel true {' '.join(CLASSES)}", "@data"]
    for i, length in enumerate(content["lengths"]):
        values = content["inputs"][i, :length].T.tolist()
        dimensions = [",".join(map(str, dimension)) for dimension in values]
        lines.append(":".join([*dimensions, str(content["labels"][i])]))
    return "\n".join(lines).encode()


def train(path: Path, workdir: Path, *settings: str) -> str:
    """Trains in this process; returns the output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        paths = f"--config.data.path={path}", f"--workdir={workdir}"
        train_command.main([*TINY, *paths, *settings])
    return output.getvalue()


def bits(workdir: Path) -> object:
    """What is equal in runs that are equal bit for bit."""
    return trainer.result(workdir)["params_sha256"], trainer.metrics(workdir)


@pytest.fixture(scope="module")
def run(once: Once) -> Path:
    """The workdir of a run on `arrays()`; its output is in `../printed.txt`."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        printed = train(save(folder / "levels.npz", arrays()), folder / "run")
        (folder / "printed.txt").write_text(printed)

    return once("levels", fill) / "run"


@pytest.mark.usefixtures("unrendered")
def test_the_files_of_a_run_hold_its_task(run: Path, tmp_path: Path) -> None:
    """Evaluation and report need only the workdir."""
    assert "30 / 15 / 15 sequences" in (run.parent / "printed.txt").read_text()
    copy = shutil.copytree(run, tmp_path / "copy")
    before = trainer.result(copy)
    assert before["dataset"] == "levels"
    assert before["task"]["classes"] == ["high", "low", "middle"]
    assert before["trained_on_sha256"] == before["task"]["sha256"]
    assert before["accuracy"] > 0.5
    recalls = [row[label] / sum(row) for label, row in enumerate(before["confusion"])]
    assert before["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    shutil.rmtree(copy / "evaluation")
    evaluate.main([f"--workdir={copy}"])
    after = trainer.result(copy)
    # Evaluated on another number of devices.
    assert after.pop("loss") == pytest.approx(before.pop("loss"), rel=1e-6)
    assert after == before
    report.main([f"--workdir={copy}"])
    page = (copy / "report" / "index.html").read_text()
    assert f"{before['correct']} of {before['examples']} sequences" in page
    assert "middle" in page


def test_a_run_refuses_to_resume_on_other_data(run: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "levels.npz", arrays(seed=1))
    copy = shutil.copytree(run, tmp_path / "copy")
    before = file_times(copy).keys()
    longer = "--config.train.num_steps=30"
    paths = f"--workdir={copy}", f"--config.data.path={other}"
    message = refused("main", *TINY, longer, *paths)
    assert "trained on other data" in message
    assert file_times(copy).keys() == before


@pytest.mark.usefixtures("unrendered")
def test_evaluation_and_report_of_other_data(run: Path, tmp_path: Path) -> None:
    """Without a split, all of them are evaluated. The result has a file of its own."""
    copy = shutil.copytree(run, tmp_path / "copy")
    other = save(tmp_path / "other.npz", arrays(15, seed=1, split=None))
    arguments = [f"--workdir={copy}", f"--config.data.path={other}"]
    evaluate.main(arguments)
    (path,) = (copy / "evaluation").glob("test-*-*.json")
    content = json.loads(path.read_text())
    assert content["dataset"] == "other"
    assert content["task"]["sha256"] != content["trained_on_sha256"]
    assert content["examples"] == 15
    # The means of the training data, not of these.
    assert content["task"]["mean"] == trainer.result(run)["task"]["mean"]
    assert trainer.result(copy) == trainer.result(run)
    report.main(arguments)
    page = (copy / "report" / "index.html").read_text()
    assert "figures are of other, other data than those of the training" in page
    assert f"{content['correct']} of 15 sequences" in page


def test_either_file_of_a_pair_names_both_but_in_predictions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    content = arrays(48)
    for name, part in (("TRAIN", slice(33)), ("TEST", slice(33, 48))):
        own = {key: values[part] for key, values in content.items()}
        (tmp_path / f"levels_{name}.ts").write_bytes(as_ts(own))
    path = tmp_path / "levels_TRAIN.ts"
    evaluate.main([f"--workdir={copy}", f"--config.data.path={path}"])
    (evaluated,) = (copy / "evaluation").glob("test-*-*.json")
    result = json.loads(evaluated.read_text())
    assert (result["dataset"], result["examples"]) == ("levels", 15)
    capsys.readouterr()
    predict.main([f"--workdir={copy}", str(path)])
    assert len(capsys.readouterr().out.splitlines()) == 33  # of the named file only


def test_every_format_gives_the_run_of_the_same_arrays(
    run: Path, tmp_path: Path
) -> None:
    """Every value is read once, as the same float64, in any order of memory."""
    content = arrays()
    rows = as_table(content)
    pyarrow.csv.write_csv(rows, tmp_path / "levels.csv")
    pyarrow.parquet.write_table(rows, tmp_path / "levels.parquet")
    by_column = {name: np.asfortranarray(array) for name, array in content.items()}
    folder = save_folder(tmp_path / "levels", by_column)
    for path in (folder, tmp_path / "levels.csv", tmp_path / "levels.parquet"):
        workdir = tmp_path / f"run{path.suffix}"
        train(path, workdir)
        assert bits(workdir) == bits(run)
        sha256 = trainer.result(run)["task"]["sha256"]
        assert trainer.result(workdir)["task"]["sha256"] == sha256


@pytest.mark.parametrize(
    ("examples", "lengths", "text"),
    [
        (np.zeros((2, 3)), None, r"has 1 features, .* names 2, \('x', 'y'\)"),
        (np.full((2, 3, 2), np.nan), None, "is missing"),
        (np.zeros((2, 3, 2)), [0, 1], "allowed are 1 to 3"),
    ],
)
def test_arrays_that_a_model_refuses(
    examples: np.ndarray, lengths: Any, text: str, run: Path
) -> None:
    with pytest.raises(UserError, match=rf"^(inputs|lengths).*{text}"):
        rnnmnist.load(run).classify(examples, lengths)


def test_the_content_of_padding_changes_no_bit(run: Path, tmp_path: Path) -> None:
    """Of training and of predictions."""
    content = arrays()
    values, lengths = content["inputs"], content["lengths"]
    model = rnnmnist.load(run)
    expected = model.classify(values, lengths)
    sequences = [one[:length] for one, length in zip(values, lengths, strict=True)]
    np.testing.assert_array_equal(model.classify(sequences), expected)
    values[np.arange(12) >= lengths[:, None]] = [np.nan, 1e39]
    np.testing.assert_array_equal(model.classify(values, lengths), expected)
    workdir = tmp_path / "run"
    train(save(tmp_path / "garbage.npz", content), workdir)
    assert bits(workdir) == bits(run)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_batches_from_the_host_give_the_bits_of_resident_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which take at most a quarter of the memory that the devices share."""
    monkeypatch.setattr(placement, "CHUNK_UPDATES", 3)
    folder = save_folder(tmp_path / "data", arrays())
    settings = (
        "--config.num_seeds=2",
        "--config.execution.num_devices=4",
        "--config.train.loss=every_step",
    )
    copies = 4 * 30 * 12 * 2 * 4  # float32 on each device
    for place, memory in (("device", 4 * copies), ("host", 4 * copies - 1)):
        monkeypatch.setattr(
            placement, "main_memory", partial(Memory, memory, available=memory)
        )
        output = train(folder, tmp_path / place, *settings)
        assert f"stay on the {place}" in output
    assert bits(tmp_path / "host") == bits(tmp_path / "device")


@pytest.mark.usefixtures("unrendered")
def test_a_file_without_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation split is too small to select, and there is no test split."""
    path = save(tmp_path / "levels.npz", arrays(19, split=None))
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        output = train(path, workdir, "--config.train.batch_size=100")
    assert trainer.result(workdir, "validation")["examples"] == 3
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"]["batch_size"] == 16
    assert "test        none" in output
    assert f" -m rnnmnist evaluate --workdir={workdir}\n" in output
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
    again = train(path, workdir, "--config.train.batch_size=100")
    assert f"evaluate    rnnmnist evaluate --workdir={workdir}\n" in again
    report.main([f"--workdir={workdir}"])
    assert "levels has no test split" in (workdir / "report/index.html").read_text()


def test_predict_names_the_class_of_each_sequence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = arrays()
    path = save(tmp_path / "new.npz", {k: content[k] for k in ("inputs", "lengths")})
    predict.main([f"--workdir={run}", "--json", str(path)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(60))
    assert {line["file"] for line in lines} == {str(path)}
    assert all(set(line["probabilities"]) == set(CLASSES) for line in lines)
    test = content["split"] == "test"
    correct = np.array([line["label"] for line in lines]) == content["labels"]
    assert correct[test].sum() == trainer.result(run)["correct"]


def test_fit_trains_on_a_list_of_arrays_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = arrays()
    settings: Any = {name.split(".")[1]: value for name, value in SETTINGS.items()}
    settings |= {"workdir": tmp_path / "run", "split": content["split"]}
    pairs = zip(content["inputs"], content["lengths"], strict=True)
    inputs, labels = [one[:length] for one, length in pairs], content["labels"]
    of_numpy = settings | {"learning_rate": np.float64(0.03), "seed": np.int64(0)}
    workdir = rnnmnist.fit(inputs, labels, **of_numpy).workdir
    assert workdir == tmp_path / "run"
    settings["num_steps"] = 40
    rnnmnist.fit(inputs, labels, **settings)
    assert "resuming from step 20" in capsys.readouterr().out
    evaluate.main([f"--workdir={workdir}"])
    found = rnnmnist.load(workdir).classify(inputs)
    assert found.shape == (60, 3)
    with pytest.raises(UserError, match="trained on other data"):
        rnnmnist.fit([one + 1 for one in inputs], labels, **settings)
    moved = shutil.move(workdir, tmp_path / "moved")
    evaluate.main([f"--workdir={moved}"])
    elsewhere = shutil.move(tmp_path / "moved/run.data", tmp_path)
    lost = f"data.path: {workdir}/run.data is missing"
    assert lost in refused("evaluate", f"--workdir={moved}")
    evaluate.main([f"--workdir={moved}", f"--config.data.path={elsewhere}"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "mnist"}, "fit: name: no such setting"),
        (
            {"labels": np.arange(60), "cell": "lru"},
            "none of the 60 training sequences can validate",
        ),
    ],
)
def test_fit_writes_nothing_before_its_checks(
    change: dict[str, Any], text: str, tmp_path: Path
) -> None:
    content = arrays()
    given = {name: content[name] for name in ("inputs", "labels")}
    with pytest.raises(UserError, match=text):
        rnnmnist.fit(**(given | change), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fit_changes_nothing_in_a_workdir_in_use(tmp_path: Path) -> None:
    content = arrays()
    saved = tmp_path / "run" / "run.data" / "inputs.npy"
    saved.parent.mkdir(parents=True)
    np.save(saved, content["inputs"])
    with lock(tmp_path / "run"), pytest.raises(UserError, match="is in use by"):
        rnnmnist.fit(content["inputs"] + 1, content["labels"], workdir=tmp_path / "run")
    np.testing.assert_array_equal(np.load(saved), content["inputs"])


def test_fit_refuses_the_workdir_of_another_run(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    before = file_times(copy).keys()
    content = arrays()
    with pytest.raises(UserError, match="belongs to another run"):
        rnnmnist.fit(content["inputs"], content["labels"], workdir=copy)
    assert file_times(copy).keys() == before
