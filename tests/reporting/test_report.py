"""Report pages, their files, and comparisons of runs."""

import contextlib
import dataclasses
import datetime
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from support import REPOSITORY, Command, in_a_browser, one_line_error, refused

from rnnmnist import report
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import (
    format_accuracy,
    probability,
    score_confusions,
    wilson_interval,
)
from rnnmnist.reporting import plots
from rnnmnist.reporting.comparison import (
    comparison_folder,
    comparison_page,
    differing_settings,
)
from rnnmnist.reporting.pages import provenance, write_files
from rnnmnist.reporting.run_data import RunData, load_run_data
from rnnmnist.reporting.sections import estimate_accuracies, report_page
from rnnmnist.runs.logs import Metrics, Session

PLOTS = ["curves", "confusion", "steps", "gallery", "reliability"]
NOW = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
PROVENANCE = provenance("python -m rnnmnist.report", NOW)


@dataclasses.dataclass(frozen=True)
class Reports:
    """Two runs with reports, and the output of the command."""

    first: Path
    second: Path
    output: str


@pytest.fixture(scope="module")
def reports(
    once: Callable[[str, Callable[[Path], None]], Path],
    reference_run: Path,
    data_dir: Path,
) -> Reports:
    """A run, and a copy of it without metrics and results."""

    def paths(folder: Path) -> tuple[Path, Path]:
        return folder / "runs" / "first", folder / "runs" / "deeper #1" / "second"

    def fill(folder: Path) -> None:
        first, second = paths(folder)
        shutil.copytree(reference_run, first)
        shutil.copytree(reference_run, second)
        (second / "metrics.jsonl").unlink()
        shutil.rmtree(second / "evaluation")
        data = f"--config.data.data_dir={data_dir}"
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            report.main([f"--workdir={first}", f"--workdir={second}", data])
        assert errors.getvalue() == ""
        (folder / "output").write_text(output.getvalue())

    folder = once("reports", fill)
    return Reports(*paths(folder), (folder / "output").read_text())


@pytest.fixture(scope="module")
def run_data(reports: Reports, data_dir: Path) -> RunData:
    """The data of the first run."""
    return load_run_data(reports.first, "best", {"data.data_dir": str(data_dir)})


@pytest.fixture(scope="module")
def ensemble(run_data: RunData) -> RunData:
    """`run_data` as of three seeds; each has three more errors than the one before."""
    tables, networks = [], []
    (predictions,) = run_data.networks
    for errors in (0, 3, 6):
        changed = np.flatnonzero(predictions.correct)[:errors]
        predicted = predictions.predicted.copy()
        predicted[changed, -1] = (predictions.labels[changed] + 1) % 10
        networks.append(predictions._replace(predicted=predicted))
        table = np.zeros((10, 10), int)
        np.add.at(table, (predictions.labels, predicted[:, -1]), 1)
        tables.append(table)
    scores = score_confusions(np.array(tables), np.full(len(tables), 1.5))
    assert scores.accuracy_std == pytest.approx(0.006)
    metrics = [
        Metrics.create(
            *(line.step, line.split, line.examples, range(3)),
            [line.loss * (1 + seed / 10) for seed in range(3)],
            [line.examples // 2] * 3,
        )
        for line in run_data.metrics
    ]
    return dataclasses.replace(
        run_data, scores=scores, networks=networks, metrics=metrics
    )


class PageParser(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "source", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(files: dict[str, bytes]) -> PageParser:
    return PageParser(files["index.html"].decode())


def spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_report_has_plots_and_one_page(reports: Reports) -> None:
    report = reports.first / "report"
    names = {f"{name}.png" for name in PLOTS}
    assert {path.name for path in report.iterdir()} == names | {"index.html"}
    for name in names:
        content = (report / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20], "big") == 960
    second = {path.name for path in (reports.second / "report").iterdir()}
    assert second == {name for name in names if "curves" not in name} | {"index.html"}
    together = reports.first.parent / "report"
    assert {path.name for path in together.iterdir()} == {
        "index.html",
        "validation.png",
    }
    printed = [line for line in reports.output.splitlines() if line.startswith("/")]
    folders = (report, reports.second / "report", together)
    assert sorted(printed) == sorted(str(p) for f in folders for p in f.iterdir())


def test_a_report_writes_only_its_folder_and_the_log_of_test_readings(
    reports: Reports,
) -> None:
    kept = {path.name for path in reports.first.iterdir() if not path.name.isdigit()}
    logs = {"sessions.jsonl", "test_readings.jsonl"}
    assert kept == logs | {"config.json", "metrics.jsonl", "evaluation", "report"}
    log = (reports.second / "test_readings.jsonl").read_text()
    line = json.loads(log.splitlines()[-1])
    assert line["command"] == "report"
    assert not (reports.second / "evaluation").exists()


def test_a_page_needs_no_network(reports: Reports) -> None:
    for folder in (reports.first, reports.second, reports.first.parent):
        html = (folder / "report" / "index.html").read_text()
        parser = PageParser(html)
        assert parser.all("html") == [{"lang": "en"}]
        (viewport,) = [
            meta for meta in parser.all("meta") if meta.get("name") == "viewport"
        ]
        assert "width=device-width" in viewport["content"]
        assert parser.all("script") == []
        assert not re.search(r"https?:|url\(|@import", html)
        for _, attributes in parser.tags:
            for name in ("src", "srcset", "href"):
                value = attributes.get(name)
                assert value is None or re.match(r"data:|\.\./|[\w-]+/", value)


def test_each_plot_has_an_alternative_text_and_a_table(reports: Reports) -> None:
    parser = PageParser((reports.first / "report" / "index.html").read_text())
    pictures = parser.all("img")
    assert len(pictures) == len(PLOTS)
    for picture in pictures:
        assert len(picture["alt"]) > 60
        assert re.search(r"\d", picture["alt"])
        assert int(picture["width"]) == 960
    assert len({picture["alt"] for picture in pictures}) == len(pictures)
    assert len(parser.all("details")) == len(PLOTS)


def test_a_page_agrees_with_the_result_file(reports: Reports) -> None:
    (path,) = (reports.first / "evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    html = (reports.first / "report" / "index.html").read_text()
    words = spaced(PageParser(html).text)
    assert f"{100 * result['accuracy']:.2f} %" in words
    assert f"{result['correct']} of 500" in words
    low, high = result["accuracy_interval"]
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in words
    assert result["params_sha256"] in words
    assert f"{result['num_parameters']:,}" in words
    assert "model.hidden_size" in words
    assert reports.output.startswith("mnist5k test at step ")


def test_a_run_without_metrics_has_no_learning_curves(reports: Reports) -> None:
    html = (reports.second / "report" / "index.html").read_text()
    assert "metrics.jsonl holds no metrics" in html


def test_a_comparison_links_to_each_report(reports: Reports) -> None:
    together = reports.first.parent / "report"
    parser = PageParser((together / "index.html").read_text())
    targets = [link["href"] for link in parser.all("a")]
    assert [(together / unquote(target)).resolve() for target in targets] == [
        folder / "report" / "index.html" for folder in (reports.first, reports.second)
    ]
    assert "deeper #1/second" in parser.text
    assert "without metrics.jsonl: deeper #1/second" in parser.text


@pytest.mark.usefixtures("unrendered")
def test_a_comparison_shows_the_settings_that_differ(run_data: RunData) -> None:
    other = run_data.config.replace({"model.cell": "gru", "data.data_dir": "/there"})
    runs = [
        run_data,
        dataclasses.replace(
            run_data, config=other, workdir=run_data.workdir.with_name("gru")
        ),
    ]
    assert differing_settings(runs) == ["model.cell"]
    folder = comparison_folder([run.workdir for run in runs])
    assert folder == run_data.workdir.parent / "report"
    words = read(comparison_page(runs, folder, PROVENANCE)).text
    assert "model.cell gru" in words
    assert "model.hidden_size 48" not in words


def test_a_comparison_is_not_written_into_a_run() -> None:
    assert comparison_folder([Path("/a/runs"), Path("/a/runs/b")]) == Path("/a/report")


@pytest.mark.usefixtures("unrendered")
def test_an_ensemble_is_reported_by_seed(ensemble: RunData) -> None:
    parser = read(report_page(ensemble, PROVENANCE))
    words = spaced(parser.text)
    for network in ensemble.scores.members:
        assert f"{network.correct:,} of 500" in words
    assert "Accuracy by seed" in words
    assert "mean test accuracy of 3 seeds, on 500 images" in words
    assert "Each network is an LSTM with 48 units that reads" in words
    assert "The standard deviation over seeds is 0.60 points" in words
    assert "errors of seed 0" in words
    assert "lowest to highest" in words
    assert f"{ensemble.scores.correct:,} of 500" not in words  # a sum over seeds
    other = dataclasses.replace(ensemble, workdir=ensemble.workdir.with_name("other"))
    folder = comparison_folder([ensemble.workdir, other.workdir])
    words = spaced(read(comparison_page([ensemble, other], folder, PROVENANCE)).text)
    assert format_accuracy(ensemble.scores) in words


def test_intervals_are_over_images_for_one_network_and_else_over_seeds() -> None:
    (one,) = estimate_accuracies(np.array([[90]]), np.array([100]))
    assert one.value == 0.9
    assert (one.low, one.high) == wilson_interval(90, 100)
    correct, totals = np.array([[90, 1], [80, 1], [70, 4]]), np.array([100, 4])
    first, second = estimate_accuracies(correct, totals)
    assert first == pytest.approx((0.7, 0.8, 0.9))
    assert second == pytest.approx((0.25, 0.5, 1.0))


@pytest.mark.usefixtures("unrendered")
def test_a_run_of_several_sessions(run_data: RunData) -> None:
    session = Session(
        time="2026-01-02T03:04:05+00:00",
        command="python -m rnnmnist.main",
        hardware="a <fast> one",
        devices="2",
        processes=1,
        versions={"jax": "1.2"},
        from_step=0,
        step=1060,
        seconds={"train": 5.5, "total": 7.25},
    )
    run = dataclasses.replace(run_data, sessions=[session] * 2)
    assert run.seconds == "14.5"
    words = read(report_page(run, PROVENANCE)).text
    assert "14.5, in 2 sessions" in words
    assert "a <fast> one" in words
    assert "2026-01-02T03:04:05+00:00" in words
    assert "0 to 1,060" in words


@pytest.mark.usefixtures("unrendered")
def test_a_network_without_errors_has_a_report(run_data: RunData) -> None:
    (predictions,) = run_data.networks
    labels = predictions.labels
    perfect = predictions._replace(
        predicted=np.repeat(labels[:, None], 28, axis=1),
        probabilities=np.eye(10)[labels],
    )
    confusion = np.diag(np.bincount(labels, minlength=10))
    scores = score_confusions(confusion[None], np.zeros(1))
    run = dataclasses.replace(run_data, scores=scores, networks=[perfect])
    words = spaced(read(report_page(run, PROVENANCE)).text)
    assert "All images are classified correctly" in words
    assert "100.00 %" in words


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1, "100.00 %"), (0.99999, "> 99.99 %"), (0.5, "50.00 %"), (0, "0.00 %")],
)
def test_only_a_probability_of_one_is_printed_as_100(
    fraction: float, text: str
) -> None:
    assert probability(fraction) == text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--workdir"),
        (["--workdir=a", "--workdir=a"], "a is given more than once"),
        (["--workdir=a", "--workdirs=b"], "did you mean '--workdir'"),
        (["--workdir=a", "--split=train"], "--split: no such flag"),
        (["--workdir=a", "b"], "stray argument 'b'"),
        (["--workdir=a", "--config.seed=1"], "--config.seed: no such flag"),
    ],
)
def test_a_wrong_command_line_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        report.parse(argv)


def test_an_error_is_one_line(command: Command) -> None:
    assert "--workdir" in one_line_error(command("report"))


def test_a_missing_run_is_refused_before_others_are_read(tmp_path: Path) -> None:
    existing, missing = REPOSITORY / "checkpoints" / "reference", tmp_path / "run"
    error = refused("report", f"--workdir={existing}", f"--workdir={missing}")
    assert f"{tmp_path / 'run'} does not exist" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unrendered")
def test_another_page_is_not_overwritten(run_data: RunData, tmp_path: Path) -> None:
    page = report_page(run_data, PROVENANCE)
    index = tmp_path / "index.html"
    write_files(tmp_path, page)
    write_files(tmp_path, page)  # replaces a report
    index.write_text("mine")
    with pytest.raises(UserError, match=f"{index} is not a report; move it away"):
        write_files(tmp_path, page)
    assert index.read_text() == "mine"


def test_a_file_instead_of_the_report_folder_is_named(
    reports: Reports, tmp_path: Path
) -> None:
    workdir = shutil.copytree(reports.second, tmp_path / "run")
    shutil.rmtree(workdir / "report")
    (workdir / "report").write_text("mine")
    assert f"{workdir}/report: File exists" in refused("report", f"--workdir={workdir}")
    assert (workdir / "report").read_text() == "mine"


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_the_pages_in_a_browser(
    browser: Any,
    reports: Reports,
    ensemble: RunData,
    tmp_path: Path,
    width: int,
    height: int,
    scheme: str,
) -> None:
    write_files(tmp_path / "report", report_page(ensemble, PROVENANCE))
    for folder in (reports.first, reports.second, reports.first.parent, tmp_path):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        page = context.new_page()
        errors: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, errors=errors: errors.append(message.text))
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.on("request", lambda sent, requests=requests: requests.append(sent.url))
        page.goto((folder / "report" / "index.html").as_uri(), wait_until="load")
        for details in page.locator("summary").all():
            details.click()
        assert errors == []
        assert all(url.startswith(("file:", "data:")) for url in requests)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        loaded = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert all(loaded), loaded
        colour = page.evaluate("getComputedStyle(document.documentElement).background")
        assert ("rgb(20, 23, 27)" in colour) == (scheme == "dark")
        context.close()


def sequences_run(run: RunData, number: int, *, test: bool, name: str) -> RunData:
    """The run as of sequences, `number` of them for validation."""
    sizes = dataclasses.replace(
        run.task.examples, validation=number, test=500 if test else 0
    )
    task = dataclasses.replace(
        run.task, name="mine", image_shape=None, sha256=name * 64, examples=sizes
    )
    split = "test" if test else "validation"
    workdir = run.workdir.with_name(name)
    return dataclasses.replace(
        run, workdir=workdir, trained=task, task=task, split=split
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_few_validation_sequences_do_not_select_a_step(run_data: RunData) -> None:
    few = sequences_run(run_data, 27, test=False, name="a")
    words = spaced(read(report_page(few, PROVENANCE)).text)
    assert "the last step, since 27 validation sequences do not select one." in words
    assert "with the best validation accuracy" not in words
    assert "mine has no test split: all figures are of validation." in words
    many = sequences_run(run_data, 500, test=False, name="a")
    words = spaced(read(report_page(many, PROVENANCE)).text)
    assert "with the best validation accuracy" in words
    assert "validation, which also selected the step." in words
    latest = dataclasses.replace(few, selector="latest")
    assert "selected by --step=latest." in read(report_page(latest, PROVENANCE)).text


@pytest.mark.parametrize(("number", "text"), [(49, "last"), (50, "best")])
def test_the_title_of_the_curves_names_the_selected_step(
    run_data: RunData, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    first, *_, last = run_data.validated
    lines = [
        Metrics.create(first.step, "validation", number, [0], [1.0], [40]),
        Metrics.create(last.step, "validation", number, [0], [1.0], [30]),
    ]
    step = (last if text == "last" else first).step
    (title,) = {
        drawn
        for drawn in drawn_texts(monkeypatch, lambda: plots.learning_curves(lines))
        if "accuracy:" in drawn
    }
    assert f" {text} validation accuracy: " in title
    assert title.endswith(f" % at step {step}")


@pytest.mark.usefixtures("unrendered")
def test_a_report_on_other_data_than_the_training(run_data: RunData) -> None:
    run = sequences_run(run_data, 500, test=True, name="a")
    words = read(report_page(run, PROVENANCE)).text
    assert "other data" not in words
    assert "1.4 epochs of mine" in words
    sizes = dataclasses.replace(run.task.examples, train=0, validation=0)
    task = dataclasses.replace(run.task, name="theirs", sha256="b" * 64, examples=sizes)
    other = dataclasses.replace(run, task=task)
    words = spaced(read(report_page(other, PROVENANCE)).text)
    assert "The figures are of theirs, other data than those of the training" in words
    assert "1.4 epochs of mine" in words
    assert "with the best validation accuracy" in words
    runs = [other, dataclasses.replace(other, workdir=other.workdir.with_name("b"))]
    folder = comparison_folder([run.workdir for run in runs])
    words = spaced(read(comparison_page(runs, folder, PROVENANCE)).text)
    assert words.count(f"test on theirs {format_accuracy(run.scores)}") == 3


@pytest.mark.usefixtures("unrendered")
def test_a_comparison_names_splits_and_tells_data_of_one_name_apart(
    run_data: RunData,
) -> None:
    runs = [
        sequences_run(run_data, 500, test=True, name="a"),
        sequences_run(run_data, 500, test=False, name="b"),
    ]
    folder = comparison_folder([run.workdir for run in runs])
    words = spaced(read(comparison_page(runs, folder, PROVENANCE)).text)
    accuracy = format_accuracy(run_data.scores)
    for dataset, result in [("aaaaaaaa", "a: test"), ("bbbbbbbb", "b: validation")]:
        assert f"on mine ({dataset}) is {result} {accuracy}" in words
    for split in ("test", "validation"):
        assert words.count(f"{split} {accuracy}") == 2  # also in the table


def drawn_texts(
    monkeypatch: pytest.MonkeyPatch, draw: Callable[[], bytes]
) -> list[str]:
    """Draws a plot and returns its texts."""
    texts: list[str] = []

    def png(figure: Figure) -> bytes:
        figure.draw_without_rendering()
        texts.extend(text.get_text() for text in figure.findobj(Text))
        return b""

    with monkeypatch.context() as patch:
        patch.setattr(plots, "to_png", png)
        draw()
    return texts


def test_plots_shorten_names_and_read_no_mathematics_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [r"cost $\foo$", "walking_upstairs_1", 200 * "n"]
    tiles = [plots.Tile(np.ones((1, 2)), name, "99.00 %", name) for name in names]
    plotted: list[tuple[Callable[[], bytes], int]] = [
        (lambda: plots.confusion_matrix(np.eye(3, dtype=int), names), 24),
        (lambda: plots.gallery(tiles, images=False), 14),
    ]
    for draw, longest in plotted:
        lines = "\n".join(drawn_texts(monkeypatch, draw)).splitlines()
        assert names[0] in lines
        assert max(len(line) for line in lines if line[:1] in "wn") == longest
        assert draw().startswith(b"\x89PNG")
    assert "walking…airs_1" in lines


def test_an_error_of_one_step_is_drawn() -> None:
    def draw(values: list[float]) -> bytes:
        tile = plots.Tile(np.array(values)[:, None], "a", "99.00 %", "b")
        return plots.gallery([tile], images=False)

    assert draw([1.0]) != draw([np.nan])


def test_a_high_accuracy_is_not_written_over_the_title(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heights: list[float] = []

    def png(figure: Figure) -> bytes:
        figure.draw_without_rendering()
        (axes,) = figure.axes
        for text in axes.texts:
            heights.append(text.get_window_extent().y1 - axes.bbox.y1)
        return b""

    monkeypatch.setattr(plots, "to_png", png)
    plots.accuracy_over_time([plots.Estimate(0.99, 1, 1)] * 28, 0.1)
    assert len(heights) == 4
    assert max(heights) < 0


def test_the_name_of_a_run_is_not_read_as_mathematics(run_data: RunData) -> None:
    names = ("_base", "lr$_{0^1$", "back\\slash", 300 * "long")
    image = plots.validation_curves(dict.fromkeys(names, run_data.validated))
    assert image.startswith(b"\x89PNG")
