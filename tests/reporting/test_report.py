"""Report pages and their files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainer
from markupsafe import Markup
from support import Once, called, output_of

from rnnmnist.data.examples import Examples, View
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.splits import load_split
from rnnmnist.reporting import pages
from rnnmnist.reporting.pages import (
    predict_over_time,
    write_report,
)
from rnnmnist.runs.records import Record

PLOTS = ["curves", "confusion", "time_steps", "gallery"]
COMMAND = "rnnmnist report"


@pytest.fixture(scope="module")
def reported(once: Once, reference_run: Path, data_dir: Path) -> Path:
    """Returns a run with a report."""

    def report(folder: Path) -> None:
        workdir = trainer.copy_of(reference_run, folder / "run #1")
        data = f"--config.data.data_dir={data_dir}"
        output_of(called("report", f"--workdir={workdir}", data))

    return once("reported", report) / "run #1"


def text_of(page: Path) -> str:
    """Returns the text of a page in one line, without its style sheet."""
    body = page.read_text().partition("</style>")[2]
    return Markup(body).striptags()


def test_a_report_has_plots_and_a_self_contained_page(
    reported: Path, reference_run: Path
) -> None:
    names = {path.name for path in (reported / "report").iterdir()}
    assert names == {f"{name}.png" for name in PLOTS} | {"index.html"}
    before = {path.name for path in reference_run.iterdir()}
    assert {path.name for path in reported.iterdir()} == before | {"report"}
    html = (reported / "report" / "index.html").read_text()
    assert '<html lang="en">' in html
    assert "width=device-width" in html
    assert not re.search(r"<script|https?:|url\(|@import", html)
    for target in re.findall(r'(?:src|srcset|href)="(.*?)"', html):
        assert re.match(r"data:|\.\./|[\w-]+/", target)


@pytest.mark.usefixtures("unrendered")
def test_a_run_without_metrics_and_results_has_a_report(
    reference_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The shipped models and killed runs have no metrics."""
    workdir = trainer.copy_of(reference_run, tmp_path / "run")
    (workdir / "metrics.jsonl").unlink()
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
    selecting = Record(reported).headers[result["step"]].metrics
    assert selecting is not None
    for text in (
        f"Validation accuracy: {100 * selecting.accuracy:.2f} %",
        f"{100 * result['accuracy']:.2f} %",
        f"{result['correct']} of 500",
        f"{100 * low:.2f} to {100 * high:.2f} %",
        f"{result['num_parameters']:,}",
        result["params_sha256"],
        "model.hidden_size48",
    ):
        assert text in words


class Predictor:
    """A network with given predictions, int [ensemble, examples, time]."""

    view = View()

    def __init__(self, *predicted: list[list[int]]) -> None:
        self.predicted = np.array(predicted)

    def logits(self, block: Examples, *, every_step: bool) -> np.ndarray:
        logits: np.ndarray = np.eye(2)[self.predicted[:, block.indices]]
        return logits


@pytest.mark.parametrize("block_size", [1, 2])
def test_accuracy_over_time_by_hand(
    block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence counts up to its last time step, whichever block contains it."""
    monkeypatch.setattr(pages, "BLOCK_SIZE", block_size)
    labels, lengths = np.array([1, 1], np.int32), np.array([2, 3], np.int32)
    examples = Examples(np.zeros((2, 4, 1)), lengths, labels=labels)
    first, second = [[0, 1, 1, 1], [1, 0, 1, 1]], [[0, 0, 1, 1], [1, 1, 0, 1]]
    network: Any = Predictor(first)
    last, accuracy = predict_over_time(network, examples)
    assert last.argmax(axis=-1).tolist() == [[1, 1]]
    assert accuracy.tolist() == [0.5, 0.5, 1]
    network = Predictor(first, second)
    last, accuracy = predict_over_time(network, examples)
    assert last.argmax(axis=-1).tolist() == [[1, 1], [0, 0]]
    assert accuracy.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.usefixtures("unrendered")
def test_without_errors_a_report_has_no_plot_of_errors(
    reported: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workdir = trainer.copy_of(reported, tmp_path / "run")
    run = Network(Record(workdir), "best", {"data.data_dir": str(data_dir)})
    _, _, examples = load_split(run)
    perfect = np.eye(10)[examples.labels]
    over_time = np.repeat(perfect[None, :, None], 28, axis=2)
    monkeypatch.setattr(Network, "logits", lambda *_, **__: over_time)
    report = write_report(run, tmp_path / "report")
    assert "500 of 500 images are correct" in text_of(report.page)
    assert set(report.page.parent.iterdir()) == {*report.plots, report.page}
    assert "gallery.png" not in {path.name for path in report.plots}
