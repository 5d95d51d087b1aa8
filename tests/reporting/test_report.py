"""Report pages and their files."""

import copy
import dataclasses
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trainer
from markupsafe import Markup
from support import (
    UNOPTIMIZED,
    Once,
    called,
    in_a_browser,
    make_metrics,
    output_of,
    save_network,
)
from trainer import Run

from rnnmnist import fit
from rnnmnist.config.files import REFERENCES, resolve_workdir
from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import score_logits, wilson_interval
from rnnmnist.reporting import pages
from rnnmnist.reporting.pages import RunData, load_run_data, report_run
from rnnmnist.runs.workdir import list_steps

FIRST, SECOND = "first", "second #1"
PLOTS = ["curves", "confusion", "steps", "gallery", "reliability"]
COMMAND = "python -m rnnmnist.report"


@pytest.fixture(scope="module")
def reports(once: Once, reference_run: Path, data_dir: Path) -> Path:
    """Two runs with reports; the second has no metrics, sessions or results.

    The output of the command is in `output.txt`.
    """

    def fill(folder: Path) -> None:
        workdirs = [folder / FIRST, folder / SECOND]
        for workdir in workdirs:
            shutil.copytree(reference_run, workdir)
        (folder / SECOND / "metrics.jsonl").unlink()
        (folder / SECOND / "sessions.jsonl").unlink()
        shutil.rmtree(folder / SECOND / "evaluation")
        output = ""
        for workdir in workdirs:
            data = f"--config.data.data_dir={data_dir}"
            finished = called("report", f"--workdir={workdir}", data)
            assert finished.stderr == ""
            output += finished.stdout
        (folder / "output.txt").write_text(output)

    return once("reports", fill)


def folders_of(reports: Path) -> list[Path]:
    """The folders of the two reports."""
    return [reports / run / "report" for run in (FIRST, SECOND)]


@pytest.fixture(scope="module")
def run_data(reports: Path, data_dir: Path) -> RunData:
    """The data of the first run."""
    return load_run_data(reports / FIRST, "best", {"data.data_dir": str(data_dir)})


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
    scores = score_logits(logits, labels)
    return dataclasses.replace(
        run_data, scores=scores, predictions=networks, metrics=metrics
    )


def with_network(run: RunData, **attributes: Any) -> RunData:
    """A run whose network has other attributes."""
    network = copy.copy(run.network)
    vars(network).update(attributes)
    return dataclasses.replace(run, network=network)


def text_of(page: Path) -> str:
    """Returns the text of a page in one line, without its style."""
    body = page.read_text().partition("</style>")[2]
    return Markup(body.replace("\N{NO-BREAK SPACE}", " ")).striptags()


def report_text(run: RunData) -> str:
    """Returns the text of a run's report."""
    with tempfile.TemporaryDirectory() as folder:
        moved = with_network(run, workdir=Path(folder, run.network.workdir.name))
        return text_of(report_run(moved, COMMAND)[-1])


def test_a_report_has_plots_and_one_page(reports: Path) -> None:
    plots = {f"{name}.png" for name in PLOTS}
    expected = (plots, plots - {"curves.png"})
    for folder, names in zip(folders_of(reports), expected, strict=True):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert files.keys() == names | {"index.html"}
        for name in names:
            assert files[name].startswith(b"\x89PNG")
            assert int.from_bytes(files[name][16:20], "big") == 960
    output = (reports / "output.txt").read_text().splitlines()
    printed = [line for line in output if line.startswith("/")]
    written = [str(path) for folder in folders_of(reports) for path in folder.iterdir()]
    assert sorted(printed) == sorted(written)


def test_a_report_writes_only_its_folder(reports: Path, reference_run: Path) -> None:
    before = {path.name for path in reference_run.iterdir()}
    after = {path.name for path in (reports / FIRST).iterdir()}
    assert after == before | {"report"}
    assert not (reports / SECOND / "evaluation").exists()


def test_a_page_needs_no_network(reports: Path) -> None:
    for folder in folders_of(reports):
        html = (folder / "index.html").read_text()
        assert '<html lang="en">' in html
        assert "width=device-width" in html
        assert not re.search(r"<script|https?:|url\(|@import", html)
        for target in re.findall(r'(?:src|srcset|href)="(.*?)"', html):
            assert re.match(r"data:|\.\./|[\w-]+/", target)


def test_a_page_agrees_with_the_result_file(reports: Path) -> None:
    (path,) = (reports / FIRST / "evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    words = text_of(reports / FIRST / "report" / "index.html")
    low, high = result["accuracy_interval"]
    for text in (
        f"{100 * result['accuracy']:.2f} %",
        f"{result['correct']} of 500",
        f"{100 * low:.2f} to {100 * high:.2f} %",
        f"{result['num_parameters']:,}",
        result["params_sha256"],
        "model.hidden_size48 (default: 128)",
    ):
        assert text in words
    assert (reports / "output.txt").read_text().startswith("mnist5k test at step ")


@pytest.mark.usefixtures("unrendered")
def test_an_ensemble_is_reported_by_seed(ensemble: RunData) -> None:
    words = report_text(ensemble)
    counts = [f"{network.correct:,}" for network in ensemble.scores.members]
    assert f"{', '.join(counts)} of 500" in words
    assert "3 seeds, on 500 images" in words
    assert "0.60 points" in words  # the standard deviation
    assert f"{ensemble.scores.ensemble_correct} images" in words
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
    session = msgspec.structs.replace(
        run_data.sessions[0], hardware="a <fast> one", seconds={"total": 7.25}
    )
    run = dataclasses.replace(run_data, sessions=[session] * 2)
    assert run.seconds == "14.5"
    words = report_text(run)
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
    scores = score_logits(np.eye(10)[labels][None], labels)
    run = dataclasses.replace(
        run_data, scores=scores, predictions=[perfect], combined=perfect
    )
    assert "500 of 500 images are correct" in report_text(run)


@pytest.mark.usefixtures("unrendered")
def test_another_page_is_not_overwritten(run_data: RunData, tmp_path: Path) -> None:
    run = with_network(run_data, workdir=tmp_path)
    index = report_run(run, COMMAND)[-1]
    assert report_run(run, COMMAND)[-1] == index  # replaces a report
    index.write_text("mine")
    with pytest.raises(UserError, match=f"{index} is not a report; move it away"):
        report_run(run, COMMAND)
    assert index.read_text() == "mine"


def test_a_network_without_its_run_has_a_report(data_dir: Path, tmp_path: Path) -> None:
    """As the shipped models."""
    config = Config(
        data=DataConfig(name="mnist5k", data_dir=str(data_dir)),
        model=ModelConfig(hidden_size=4),
        train=TrainConfig(batch_size=100, num_steps=1234),
    )
    workdir = save_network(tmp_path, config, image_task(config.data))
    output_of(called("report", f"--workdir={workdir}"))
    words = text_of(workdir / "report" / "index.html")
    assert "step 3 of 1,234" in words
    assert "300 images, 0.1 epochs of mnist5k" in words


@pytest.mark.slow
def test_a_run_that_was_extended_has_one_number_of_steps(tmp_path: Path) -> None:
    """Also where the network is of a step before."""
    labels = np.arange(60) % 2
    inputs = np.random.default_rng(0).normal(labels[:, None, None], size=(60, 5, 1))
    for steps in (1000, 1500):
        workdir = fit(
            inputs,
            labels,
            workdir=tmp_path / "run",
            num_steps=steps,
            eval_every_steps=500,
            batch_size=10,
            cell="lstm",
            hidden_size=4,
            verbose=False,
        )
    output_of(called("report", f"--workdir={workdir}", "--step=1000"))
    words = text_of(workdir / "report" / "index.html")
    assert words.count("step 1,000 of 1,500") == 2
    assert "complete at step 1,500; 15,000 sequences, 277.8 epochs" in words
    assert "train.num_steps1500" in words


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_run_that_trains_or_was_killed_has_a_report(new_run: Run) -> None:
    many = (*trainer.ENDLESS, "--config.train.eval_every_steps=7")
    process = new_run.start(*many, **UNOPTIMIZED)
    report = new_run.workdir / "report" / "index.html"
    try:
        while not list_steps(new_run.workdir):
            time.sleep(0.05)
        output_of(called("report", f"--workdir={new_run.workdir}"))
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    report.unlink()
    output_of(called("report", f"--workdir={new_run.workdir}"))
    last = list_steps(new_run.workdir)[-1]
    assert f"up to step {last:,} of 1,000,000" in text_of(report)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_shipped_model_has_a_report(
    originals: Path, data_dir: Path, tmp_path: Path
) -> None:
    workdir = trainer.copy_of(resolve_workdir(REFERENCES[0]), tmp_path / "reference")
    data = f"--config.data.data_dir={data_dir}"
    files = f"--config.data.manual_dir={originals / 'mnist'}"
    printed = output_of(called("report", f"--workdir={workdir}", data, files))
    assert "of 10,000; 95 % interval" in printed


@in_a_browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_pages_in_a_browser(
    browser: Any,
    reports: Path,
    ensemble: RunData,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    report_run(with_network(ensemble, workdir=tmp_path), COMMAND)
    errors: list[str] = []
    urls: list[str] = []
    for folder in (*folders_of(reports), tmp_path / "report"):
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda sent: urls.append(sent.url))
        page.goto((folder / "index.html").as_uri(), wait_until="load")
        assert errors == []
        assert all(url.startswith(("file:", "data:")) for url in urls)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        loaded = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert all(loaded), loaded
        colour = page.evaluate("getComputedStyle(document.documentElement).background")
        assert ("rgb(20, 23, 27)" in colour) == (scheme == "dark")
        context.close()


def sequences_run(
    run: RunData, name: str, *, validation: int = 500, test: int = 500
) -> RunData:
    """The run as of sequences, with this number of them in two splits."""
    sizes = run.task.examples | {"validation": validation, "test": test}
    changes: dict[str, Any] = {"name": name, "sha256": name, "examples": sizes}
    task = dataclasses.replace(
        run.task, **changes, image_shape=None, feature_names=("a",)
    )
    run = dataclasses.replace(run, task=task, split=task.evaluated_split)
    return with_network(run, task=task)


@pytest.mark.usefixtures("unrendered")
def test_a_report_on_other_data_than_the_training(run_data: RunData) -> None:
    run = sequences_run(run_data, "mine")
    other = dataclasses.replace(run, task=sequences_run(run_data, "theirs").task)
    words = report_text(other)
    assert "theirs" in words
    assert "1.4 epochs of mine" in words
