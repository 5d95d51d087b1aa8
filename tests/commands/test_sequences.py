"""Runs on users' sequences: evaluation, prediction and errors."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trainer
from support import (
    SMALL,
    Once,
    called,
    file_times,
    flags_of,
    output_of,
    refused,
)

import rnnmnist
from rnnmnist.commands import evaluate, predict, report
from rnnmnist.errors import UserError
from rnnmnist.runs.workdir import lock

CLASSES = np.array(["low", "middle", "high"])


def arrays(count: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns noisy sequences of different lengths, whose mean depends on the class."""
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
    }


def save(path: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez(path, **content)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def run(once: Once) -> Path:
    """The workdir of a run on `arrays()`."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        path = save(folder / "levels.npz", arrays())
        flags = flags_of(SMALL | {"path": path})
        output_of(called("main", "--config=files", f"--workdir={folder}/run", *flags))

    return once("levels", fill) / "run"


@pytest.mark.usefixtures("unrendered")
def test_evaluation_and_report_on_other_data(run: Path, tmp_path: Path) -> None:
    """If a file has no splits, all its sequences are evaluated."""
    copy = shutil.copytree(run, tmp_path / "copy")
    content = arrays(15, seed=1)
    del content["split"]
    other = save(tmp_path / "other.npz", content)
    result = trainer.result(copy)
    assert result["dataset"] == "levels"
    assert result["task"]["classes"] == ["high", "low", "middle"]
    assert result["trained_on_sha256"] == result["task"]["sha256"]
    arguments = [f"--workdir={copy}", f"--config.data.path={other}"]
    evaluate.main(arguments)
    (path,) = (copy / "evaluation").glob("test-*-*.json")
    other_result = json.loads(path.read_text())
    assert other_result["dataset"] == "other"
    assert other_result["task"]["sha256"] != other_result["trained_on_sha256"]
    # The mean is computed from the training data, not from the other data.
    assert other_result["task"]["mean"] == result["task"]["mean"]
    assert trainer.result(copy) == result
    report.main(arguments)
    page = (copy / "report" / "index.html").read_text()
    assert "results on this page describe other, not the training data set" in page
    assert f"{other_result['correct']} of 15 sequences" in page


def test_predict_prints_the_class_of_each_sequence(
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


def test_fit_trains_on_a_list_of_arrays(tmp_path: Path) -> None:
    content = arrays()
    settings = SMALL | {"workdir": tmp_path / "run", "split": content["split"]}
    pairs = zip(content["inputs"], content["lengths"], strict=True)
    inputs, labels = [values[:length] for values, length in pairs], content["labels"]
    workdir = rnnmnist.fit(inputs, labels, **settings).workdir
    assert workdir == tmp_path / "run"
    with pytest.raises(UserError, match="trained on data other"):
        rnnmnist.fit([sequence + 1 for sequence in inputs], labels, **settings)
    shutil.rmtree(workdir / "arrays.data")
    message = f"data.path: {workdir} does not contain the training sequences"
    assert message in refused("evaluate", f"--workdir={workdir}")


def test_fit_writes_nothing_if_a_check_fails(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    paths = file_times(copy).keys()
    fit = partial(rnnmnist.fit, arrays()["inputs"])
    labels = arrays()["labels"]
    with lock(copy), pytest.raises(UserError, match="is in use by"):
        fit(labels, workdir=copy)
    with pytest.raises(UserError, match="belongs to another run"):
        fit(labels, workdir=copy)
    assert file_times(copy).keys() == paths
    with pytest.raises(UserError, match="none of the 60 training sequences"):
        fit(np.arange(60), workdir=tmp_path / "run", cell="lru")
    assert not (tmp_path / "run").exists()
