"""Report pages and their files."""

import copy
import dataclasses
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trainer
from markupsafe import Markup
from msgspec.structs import replace
from support import (
    Once,
    called,
    make_metrics,
    output_of,
)

from rnnmnist.errors import UserError
from rnnmnist.evaluation.scoring import score_logits
from rnnmnist.evaluation.trained_run import TrainedRun
from rnnmnist.reporting import pages
from rnnmnist.reporting.pages import RunData, load_run_data, write_pages
from rnnmnist.runs.checkpoint_files import read_header
from rnnmnist.runs.results import Result
from rnnmnist.runs.scores import wilson_interval

PLOTS = ["curves", "confusion", "steps", "gallery", "reliability"]
COMMAND = "rnnmnist report"


@pytest.fixture(scope="module")
def reported(once: Once, reference_run: Path, data_dir: Path) -> Path:
    """A run with a report. What the command printed is in `../printed.txt`."""

    def report(folder: Path) -> None:
        workdir = trainer.copy_of(reference_run, folder / "run #1")
        data = f"--config.data.data_dir={data_dir}"
        printed = output_of(called("report", f"--workdir={workdir}", data))
        (folder / "printed.txt").write_text(printed)

    return once("reported", report) / "run #1"


@pytest.fixture(scope="module")
def run_data(reported: Path, data_dir: Path) -> RunData:
    settings = {"data.data_dir": str(data_dir)}
    return load_run_data(TrainedRun(reported, "best", settings))


@pytest.fixture(scope="module")
def ensemble(run_data: RunData) -> RunData:
    """`run_data` as of three seeds; each has three more errors than the one before."""
    (predictions,) = run_data.predictions
    labels = predictions.labels
    networks = []
    for errors in (0, 3, 6):
        changed = np.flatnonzero(predictions.correct)[:errors]
        predicted = predictions.predicted.copy()
        predicted[changed, -1] = (labels[changed] + 1) % 10
        networks.append(predictions._replace(predicted=predicted))
    logits = np.eye(10)[[network.predicted[:, -1] for network in networks]]
    metrics = [
        make_metrics(
            line.step,
            line.split,
            line.examples,
            3 * [line.examples // 2],
            [line.loss, 1.1 * line.loss, 1.2 * line.loss],
        )
        for line in run_data.metrics
    ]
    scores = scores_of(run_data, logits)
    return dataclasses.replace(
        run_data, scores=scores, predictions=networks, metrics=metrics
    )


def scores_of(run: RunData, logits: np.ndarray) -> Result:
    """The scores of other logits, of as many networks as there are."""
    scores = score_logits(logits, run.examples.labels)
    return replace(run.scores, networks=scores.networks, ensemble=scores.ensemble)


def with_attributes(run: RunData, **attributes: Any) -> RunData:
    """A run that was trained otherwise."""
    trained = copy.copy(run.trained)
    vars(trained).update(attributes)
    return dataclasses.replace(run, trained=trained)


def text_of(page: Path) -> str:
    """Returns the text of a page in one line, without its style."""
    body = page.read_text().partition("</style>")[2]
    return Markup(body.replace("\N{NO-BREAK SPACE}", " ")).striptags()


def report_text(run: RunData) -> str:
    """Returns the text of a run's report."""
    with tempfile.TemporaryDirectory() as folder:
        moved = with_attributes(run, workdir=Path(folder, run.trained.workdir.name))
        return text_of(write_pages(moved)[-1])


def test_a_report_has_plots_and_a_page_that_needs_no_network(
    reported: Path, reference_run: Path
) -> None:
    files = {path: path.read_bytes() for path in (reported / "report").iterdir()}
    plots = {f"{name}.png" for name in PLOTS}
    assert {path.name for path in files} == plots | {"index.html"}
    for path, content in files.items():
        if path.name in plots:
            assert content.startswith(b"\x89PNG")
            assert int.from_bytes(content[16:20], "big") == 960
    printed = (reported.parent / "printed.txt").read_text().splitlines()
    written = {line for line in printed if line.startswith("/")}
    assert written == set(map(str, files))
    before = {path.name for path in reference_run.iterdir()}
    assert {path.name for path in reported.iterdir()} == before | {"report"}
    html = (reported / "report" / "index.html").read_text()
    assert '<html lang="en">' in html
    assert "width=device-width" in html
    assert not re.search(r"<script|https?:|url\(|@import", html)
    for target in re.findall(r'(?:src|srcset|href)="(.*?)"', html):
        assert re.match(r"data:|\.\./|[\w-]+/", target)


@pytest.mark.usefixtures("unrendered")
def test_a_run_without_metrics_sessions_and_results_has_a_report(
    reference_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As the shipped models and killed runs."""
    workdir = trainer.copy_of(reference_run, tmp_path / "run")
    (workdir / "metrics.jsonl").unlink()
    (workdir / "sessions.jsonl").unlink()
    shutil.rmtree(workdir / "evaluation")
    data = f"--config.data.data_dir={data_dir}"
    output_of(called("report", f"--workdir={workdir}", data))
    names = {path.name for path in (workdir / "report").iterdir()}
    assert names == {f"{name}.png" for name in PLOTS[1:]} | {"index.html"}
    assert not (workdir / "evaluation").exists()


def test_a_page_agrees_with_the_result_file_and_the_checkpoint(reported: Path) -> None:
    (path,) = (reported / "evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    words = text_of(reported / "report" / "index.html")
    low, high = result["accuracy_interval"]
    selecting = read_header(reported, result["step"]).metrics
    assert selecting is not None
    for text in (
        f"validation accuracy: {100 * selecting.accuracy:.2f} %",
        f"{100 * result['accuracy']:.2f} %",
        f"{result['correct']} of 500",
        f"{100 * low:.2f} to {100 * high:.2f} %",
        f"{result['num_parameters']:,}",
        result["params_sha256"],
        "model.hidden_size48 (default: 128)",
    ):
        assert text in words


@pytest.mark.usefixtures("unrendered")
def test_an_ensemble_is_reported_by_seed(ensemble: RunData) -> None:
    words = report_text(ensemble)
    counts = [f"{network.correct:,}" for network in ensemble.scores.networks]
    assert f"{', '.join(counts)} of 500" in words
    assert "3 seeds, on 500 images" in words
    assert "0.60 points" in words  # the standard deviation
    assert ensemble.scores.ensemble is not None
    assert f"{ensemble.scores.ensemble.correct} images" in words
    assert "errors of the ensemble" in words
    assert f"{ensemble.scores.correct:,} of 500" not in words  # a sum over seeds


def test_intervals_are_over_images_for_one_network_and_else_over_seeds() -> None:
    one = pages.estimate_accuracies(np.array([[90]]), np.array([100]))
    low, high = wilson_interval(90, 100)
    np.testing.assert_array_equal(one, [[low], [0.9], [high]])
    correct, totals = np.array([[90, 1], [80, 1], [70, 4]]), np.array([100, 4])
    several = pages.estimate_accuracies(correct, totals)
    np.testing.assert_allclose(several, [[0.7, 0.25], [0.8, 0.5], [0.9, 1]])


@pytest.mark.usefixtures("unrendered")
def test_a_run_of_several_sessions(run_data: RunData) -> None:
    changes = {"hardware": "a <fast> one", "seconds": {"total": 7.25}}
    session = msgspec.structs.replace(run_data.sessions[0], **changes)
    words = report_text(dataclasses.replace(run_data, sessions=[session] * 2))
    assert "14.5, in 2 sessions" in words
    assert words.count("a <fast> one") == 1


@pytest.mark.usefixtures("unrendered")
def test_a_network_without_errors_has_a_report(run_data: RunData) -> None:
    (predictions,) = run_data.predictions
    labels = predictions.labels
    perfect = predictions._replace(
        predicted=np.repeat(labels[:, None], 28, axis=1),
        probabilities=np.eye(10)[labels],
    )
    scores = scores_of(run_data, np.eye(10)[labels][None])
    run = dataclasses.replace(
        run_data, scores=scores, predictions=[perfect], combined=perfect
    )
    assert "500 of 500 images are correct" in report_text(run)


@pytest.mark.usefixtures("unrendered")
def test_another_page_is_not_overwritten(run_data: RunData, tmp_path: Path) -> None:
    run = with_attributes(run_data, workdir=tmp_path)
    index = write_pages(run)[-1]
    assert write_pages(run)[-1] == index  # replaces a report
    index.write_text("mine")
    with pytest.raises(UserError, match=f"{index} is not a report; move it away"):
        write_pages(run)
    assert index.read_text() == "mine"


@pytest.mark.usefixtures("unrendered")
@pytest.mark.xfail(strict=True, reason="only pictures of the page are written")
def test_a_picture_that_a_page_no_longer_has_is_removed(
    run_data: RunData, tmp_path: Path
) -> None:
    run = with_attributes(run_data, workdir=tmp_path)
    write_pages(run)
    files = write_pages(dataclasses.replace(run, metrics=[]))
    assert set((tmp_path / "report").iterdir()) == set(files)
