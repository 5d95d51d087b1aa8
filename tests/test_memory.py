"""Runs in memory, which leave no files. Their networks can be saved and pickled."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    INPUTS,
    LABELS,
    SMALL,
    UNOPTIMIZED,
    file_times,
    fit_small,
    output_of,
    run_python,
)

import rnnmnist

SPLIT = np.array(["train", "train", "train", "test"])[np.arange(len(LABELS)) // 2 % 4]
FILTERS: dict[str, Any] = {"cell": "filters", "hidden_size": 20, "num_devices": 1}


def fit(settings: dict[str, Any] = SMALL, **changes: Any) -> rnnmnist.Model:
    given = settings | {"verbose": False, "split": SPLIT} | changes
    return rnnmnist.fit(INPUTS, LABELS, **given)


@pytest.mark.parametrize("settings", [SMALL, FILTERS], ids=["trained", "filters"])
def test_runs_in_memory_and_in_a_folder_have_equal_results(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The network in memory and the network loaded from the folder are compared."""
    memory = fit(settings)
    fit(settings, workdir=tmp_path / "run")
    loaded = rnnmnist.load(tmp_path / "run")
    assert memory.workdir is None
    assert memory.params_sha256 == loaded.params_sha256
    assert memory.checkpoint_step == loaded.checkpoint_step
    assert memory.validation_metrics == loaded.validation_metrics
    assert memory.evaluate() == loaded.evaluate()
    np.testing.assert_array_equal(memory.classify(INPUTS), loaded.classify(INPUTS))
    np.testing.assert_array_equal(
        memory.occlusion(INPUTS[:2]), loaded.occlusion(INPUTS[:2])
    )
    _, probabilities = memory.step(memory.start(), INPUTS[0, 0])
    _, expected = loaded.step(loaded.start(), INPUTS[0, 0])
    np.testing.assert_array_equal(probabilities, expected)
    (certificate,) = memory.export("stablehlo", tmp_path / "exports").values()
    assert certificate.split == "test"


@pytest.mark.usefixtures("unrendered")
def test_a_report_of_a_run_in_memory_needs_a_folder(tmp_path: Path) -> None:
    model = fit()
    report = model.report(tmp_path / "report")
    evaluated = model.evaluate()
    assert report.result.confusion == evaluated.confusion
    # The report uses a single device, whose rounding can be different.
    assert report.result.loss == pytest.approx(evaluated.loss, rel=1e-6)
    assert set(report.page.parent.iterdir()) == {*report.plots, report.page}
    assert "network in memory, on arrays" in report.page.read_text()
    assert {path.stem for path in report.plots} >= {"curves", "confusion"}
    with pytest.raises(rnnmnist.UserError, match=r"^folder: "):
        model.report()


@pytest.mark.parametrize("workdir", [None, "run"])
def test_a_saved_network_needs_a_data_path_for_evaluation(
    tmp_path: Path, workdir: str | None
) -> None:
    model = fit(workdir=None if workdir is None else tmp_path / workdir)
    with pytest.raises(rnnmnist.UserError, match=r"^data\.path: .*does not contain"):
        pickle.loads(pickle.dumps(model)).evaluate()
    folder = tmp_path / "network"
    model.save(folder)
    before = file_times(folder)
    assert {path.name for path in (folder / "20").iterdir()} >= {"params", "header"}
    assert not (folder / "20" / "state").exists()
    saved = rnnmnist.load(folder)
    assert saved.params_sha256 == model.params_sha256
    with pytest.raises(rnnmnist.UserError, match=r"^data\.path: .*does not contain"):
        saved.evaluate()
    np.savez(tmp_path / "own.npz", inputs=INPUTS, labels=LABELS, split=SPLIT)
    named = rnnmnist.load(folder, path=tmp_path / "own.npz").evaluate()
    assert (named.dataset, named.accuracy) == ("own", model.evaluate().accuracy)
    with pytest.raises(rnnmnist.UserError, match="only parameters"):
        fit(workdir=folder)
    with pytest.raises(rnnmnist.UserError, match=r"^folder: .*contains checkpoints"):
        model.save(folder)
    names = {path for path in file_times(folder) if "evaluation" not in path.parts}
    assert names == before.keys()


def test_arrays_and_images_are_evaluated_without_a_file(tmp_path: Path) -> None:
    workdir = fit_small(tmp_path / "run")
    before = file_times(workdir)
    model = rnnmnist.load(workdir)
    inputs, labels = INPUTS[::-1][:30] + 0.01, LABELS[::-1][:30]
    result = model.evaluate(inputs=inputs, labels=labels, groups=np.arange(30) // 5)
    assert (result.dataset, result.split, result.examples) == ("inputs", "test", 30)
    predicted = np.array(model.task.classes)[model.classify(inputs).argmax(axis=1)]
    assert result.correct == (predicted == labels).sum()
    assert file_times(workdir) == before
    for wrong, message in (
        ({"labels": labels}, "^inputs: "),
        ({"groups": labels}, "^inputs: "),
        ({"inputs": inputs}, "^inputs: labels: "),
        (
            {"inputs": inputs, "labels": ["other"] * 30},
            "was not trained on class other",
        ),
    ):
        with pytest.raises(rnnmnist.UserError, match=message):
            model.evaluate(**wrong)

    digits = rnnmnist.load()
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    classes = digits.classify(images).argmax(axis=1)
    result = digits.evaluate(inputs=images, labels=classes)
    assert (result.split, result.correct) == ("test", 20)


def test_a_network_can_be_trained_on_a_feature_without_values() -> None:
    """The feature and its deltas are 0 at every time step."""
    inputs = np.concatenate([INPUTS, np.full_like(INPUTS, np.nan)], axis=2)
    given = FILTERS | {"missing": "zero", "verbose": False, "deltas": True}
    model = rnnmnist.fit(inputs, LABELS, **given)
    assert np.isfinite(model.classify(inputs)).all()


# Fits in memory. The program prints each file that it creates or opens for writing,
# except the compilation cache, devices and the memory that joblib shares with workers.
FITS = """
import os, sys
import numpy as np
import rnnmnist
from sklearn.model_selection import GridSearchCV

ALLOWED = os.environ["HOME"] + "/.cache/rnnmnist", "/dev/", "/proc/"


def show(event, args):
    writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.mkdir", "tempfile.mkdtemp", "tempfile.mkstemp"):
        if isinstance(args[0], str) and not args[0].startswith(ALLOWED):
            print(event, args[0])


y = np.arange(60) % 2
X = np.random.default_rng(0).normal(y[:, None], size=(60, 8))
os.mkdir(os.environ["HOME"] + "/.cache")
sys.addaudithook(show)
rnnmnist.fit(X, y, hidden_size=20, verbose=False)
rnnmnist.fit(X, y, num_steps=3, verbose=False)
rnnmnist.train("embedded", num_steps=3, verbose=False)
classifier = rnnmnist.RNNClassifier(hidden_size=20)
GridSearchCV(classifier, {"random_state": [0, 1]}, cv=2, n_jobs=2).fit(X, y)
"""


@pytest.mark.slow
def test_fits_in_memory_write_only_to_the_compilation_cache(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The home folder is empty at first, and no temporary files are left."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    for folder in (home, temporary):
        folder.mkdir()
    variables = {
        "PATH": environment["PATH"],
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    finished = run_python(
        "-W", "ignore", "-c", FITS, environment=variables | UNOPTIMIZED, cwd=home
    )
    assert output_of(finished) == ""
    cached = home / ".cache" / "rnnmnist"
    assert [*home.glob("*"), *home.glob("*/*")] == [cached.parent, cached]
    assert not list(temporary.iterdir())
