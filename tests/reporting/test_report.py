"""Report pages, their files, and comparisons of runs."""

import copy
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text
from support import (
    REPOSITORY,
    Command,
    Once,
    called,
    in_a_browser,
    one_line_error,
    refused,
)

from rnnmnist import report
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import (
    format_accuracy,
    probability,
    score_confusions,
    wilson_interval,
)
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import Section, write_report
from rnnmnist.reporting.pages import (
    RunData,
    compare_runs,
    estimate_accuracies,
    load_run_data,
    report_run,
)
from rnnmnist.runs.logs import Metrics, Session

PLOTS = ["curves", "confusion", "steps", "gallery", "reliability"]
COMMAND = "python -m rnnmnist.report"


@dataclasses.dataclass(frozen=True)
class Reports:
    """Two runs with reports, and the output of the command."""

    first: Path
    second: Path
    output: str

    @property
    def folders(self) -> list[Path]:
        """The reports of the runs, and the comparison."""
        runs = (self.first, self.second, self.first.parent)
        return [run / "report" for run in runs]


@pytest.fixture(scope="module")
def reports(once: Once, reference_run: Path, data_dir: Path) -> Reports:
    """A run, and a copy of it without metrics and results."""
    first, second = "runs/first", "runs/deeper #1/second"

    def fill(folder: Path) -> None:
        shutil.copytree(reference_run, folder / first)
        shutil.copytree(reference_run, folder / second)
        (folder / second / "metrics.jsonl").unlink()
        shutil.rmtree(folder / second / "evaluation")
        workdirs = [f"--workdir={folder / name}" for name in (first, second)]
        finished = called("report", *workdirs, f"--config.data.data_dir={data_dir}")
        assert finished.stderr == ""
        (folder / "output").write_text(finished.stdout)

    folder = once("reports", fill)
    return Reports(folder / first, folder / second, (folder / "output").read_text())


@pytest.fixture(scope="module")
def run_data(reports: Reports, data_dir: Path) -> RunData:
    """The data of the first run."""
    return load_run_data(reports.first, "best", {"data.data_dir": str(data_dir)})


@pytest.fixture(scope="module")
def ensemble(run_data: RunData) -> RunData:
    """`run_data` as of three seeds; each has three more errors than the one before."""
    tables, networks = [], []
    (predictions,) = run_data.predictions
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
    scores = msgspec.structs.replace(
        scores, ensemble_correct=498, ensemble_accuracy=0.996
    )
    metrics = [
        Metrics.create(
            *(line.step, line.split, line.examples, range(3)),
            [line.loss * (1 + seed / 10) for seed in range(3)],
            [line.examples // 2] * 3,
        )
        for line in run_data.metrics
    ]
    return dataclasses.replace(
        run_data, scores=scores, predictions=networks, metrics=metrics
    )


def with_network(run: RunData, **attributes: Any) -> RunData:
    """A run whose network has other attributes."""
    network = copy.copy(run.network)
    vars(network).update(attributes)
    return dataclasses.replace(run, network=network)


def beside(run: RunData, name: str) -> RunData:
    """A run in a folder beside that of another one."""
    return with_network(run, workdir=run.network.workdir.with_name(name))


def text_of(html: str) -> str:
    """Returns the text of a page in one line, without its style."""
    body = html.partition("</style>")[2].replace("\N{NO-BREAK SPACE}", " ")
    return Markup(body).striptags()


def report_text(run: RunData) -> str:
    """Returns the text of a run's report."""
    with tempfile.TemporaryDirectory() as folder:
        moved = with_network(run, workdir=Path(folder))
        return text_of(report_run(moved, COMMAND)[-1].read_text())


def comparison_text(*runs: RunData) -> str:
    """Returns the text of the comparison of runs, whose workdirs get these names."""
    with tempfile.TemporaryDirectory() as folder:
        moved = [
            with_network(run, workdir=Path(folder, run.network.workdir.name))
            for run in runs
        ]
        return text_of(compare_runs(moved, COMMAND)[-1].read_text())


def test_a_report_has_plots_and_one_page(reports: Reports) -> None:
    plots = {f"{name}.png" for name in PLOTS}
    for folder, names in zip(
        reports.folders,
        (plots, plots - {"curves.png"}, {"validation.png"}),
        strict=True,
    ):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert files.keys() == names | {"index.html"}
        for name in names:
            assert files[name].startswith(b"\x89PNG")
            assert int.from_bytes(files[name][16:20], "big") == 960
    printed = [line for line in reports.output.splitlines() if line.startswith("/")]
    written = [str(path) for folder in reports.folders for path in folder.iterdir()]
    assert sorted(printed) == sorted(written)


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
    for folder in reports.folders:
        html = (folder / "index.html").read_text()
        assert '<html lang="en">' in html
        assert "width=device-width" in html
        assert not re.search(r"<script|https?:|url\(|@import", html)
        for target in re.findall(r'(?:src|srcset|href)="(.*?)"', html):
            assert re.match(r"data:|\.\./|[\w-]+/", target)


def test_each_plot_has_an_alternative_text(reports: Reports) -> None:
    html = (reports.first / "report" / "index.html").read_text()
    pictures = re.findall(
        r'<img src="[^"]*" width="960" height="\d+" alt="(.*)">', html
    )
    assert len(set(pictures)) == len(PLOTS)
    for alt in pictures:
        assert len(alt) > 60
        assert re.search(r"\d", alt)


def test_a_page_agrees_with_the_result_file(reports: Reports) -> None:
    (path,) = (reports.first / "evaluation").glob("test-*.json")
    result = json.loads(path.read_text())
    words = text_of((reports.first / "report" / "index.html").read_text())
    assert f"{100 * result['accuracy']:.2f} %" in words
    assert f"{result['correct']} of 500" in words
    low, high = result["accuracy_interval"]
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in words
    assert result["params_sha256"] in words
    assert f"{result['num_parameters']:,}" in words
    assert "model.hidden_size" in words
    assert reports.output.startswith("mnist5k test at step ")


def test_a_comparison_links_to_each_report(reports: Reports) -> None:
    together = reports.first.parent / "report"
    html = (together / "index.html").read_text()
    targets = re.findall(r'<a href="(.*?)">', html)
    assert [(together / unquote(target)).resolve() for target in targets] == [
        folder / "report" / "index.html" for folder in (reports.first, reports.second)
    ]
    assert "without metrics.jsonl: deeper #1/second" in text_of(html)


@pytest.mark.usefixtures("unrendered")
def test_a_comparison_shows_the_settings_that_differ(run_data: RunData) -> None:
    config = run_data.network.config.replace({"model.cell": "gru"})
    other = with_network(beside(run_data, "gru"), config=config)
    words = comparison_text(run_data, other)
    assert "model.cell gru" in words
    assert "model.hidden_size 48" not in words


@pytest.mark.usefixtures("unrendered")
def test_a_comparison_is_not_written_into_a_run(
    run_data: RunData, tmp_path: Path
) -> None:
    workdirs = [tmp_path / "runs", tmp_path / "runs" / "b"]
    runs = [with_network(run_data, workdir=workdir) for workdir in workdirs]
    assert compare_runs(runs, COMMAND)[-1] == tmp_path / "report" / "index.html"


@pytest.mark.usefixtures("unrendered")
def test_an_ensemble_is_reported_by_seed(ensemble: RunData) -> None:
    words = report_text(ensemble)
    counts = [f"{network.correct:,}" for network in ensemble.scores.members]
    assert f"{', '.join(counts)} of 500" in words
    assert "mean test accuracy of 3 seeds, on 500 images" in words
    assert "The standard deviation over seeds is 0.60 points" in words
    assert "correct on 498 images: 99.60 %" in words
    assert "errors of seed 0" in words
    assert "lowest to highest" in words
    assert f"{ensemble.scores.correct:,} of 500" not in words  # a sum over seeds
    words = comparison_text(ensemble, beside(ensemble, "other"))
    assert format_accuracy(ensemble.scores) in words


def test_intervals_are_over_images_for_one_network_and_else_over_seeds() -> None:
    one = estimate_accuracies(np.array([[90]]), np.array([100]))
    low, high = wilson_interval(90, 100)
    np.testing.assert_array_equal(one, [[low], [0.9], [high]])
    correct, totals = np.array([[90, 1], [80, 1], [70, 4]]), np.array([100, 4])
    several = estimate_accuracies(correct, totals)
    np.testing.assert_allclose(several, [[0.7, 0.25], [0.8, 0.5], [0.9, 1]])


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
    confusion = np.diag(np.bincount(labels, minlength=10))
    scores = score_confusions(confusion[None], np.zeros(1))
    words = report_text(
        dataclasses.replace(run_data, scores=scores, predictions=[perfect])
    )
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
        (["--workdir=a", "--split=train"], "--split: no such flag"),
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


def test_another_page_is_not_overwritten(tmp_path: Path) -> None:
    def write() -> list[Path]:
        sections = {"results": Section(), "validation": Section()}
        values: dict[str, Any] = {"curves": {}, "missing": []}
        return write_report(tmp_path, "comparison.html", sections, COMMAND, **values)

    index = tmp_path / "index.html"
    assert write() == write() == [index]  # replaces a report
    index.write_text("mine")
    with pytest.raises(UserError, match=f"{index} is not a report; move it away"):
        write()
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
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_pages_in_a_browser(
    browser: Any,
    reports: Reports,
    ensemble: RunData,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    report_run(with_network(ensemble, workdir=tmp_path), COMMAND)
    for folder in (*reports.folders, tmp_path / "report"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page = context.new_page()
        errors: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, errors=errors: errors.append(message.text))
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.on("request", lambda sent, requests=requests: requests.append(sent.url))
        page.goto((folder / "index.html").as_uri(), wait_until="load")
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
    run = dataclasses.replace(run, task=task, split=split)
    return with_network(beside(run, name), task=task)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_few_validation_sequences_do_not_select_a_step(run_data: RunData) -> None:
    few = sequences_run(run_data, 27, test=False, name="a")
    words = report_text(few)
    assert "the last step, since 27 validation sequences" in words
    assert "all figures are of validation." in words
    words = report_text(sequences_run(run_data, 500, test=False, name="a"))
    assert "with the best validation accuracy" in words
    assert "validation, which also selected the step." in words
    latest = dataclasses.replace(few, selector="latest")
    assert "selected by --step=latest." in report_text(latest)


def validations(number: int = 500) -> list[Metrics]:
    """The metrics of two validations with so many examples, the first one better."""
    return [
        Metrics.create(step, "validation", number, [0], [1.0], [correct])
        for step, correct in ((100, 40), (200, 30))
    ]


@pytest.mark.usefixtures("unrendered")
def test_a_report_on_other_data_than_the_training(run_data: RunData) -> None:
    run = sequences_run(run_data, 500, test=True, name="a")
    words = report_text(run)
    assert "other data" not in words
    assert "1.4 epochs of mine" in words
    sizes = dataclasses.replace(run.task.examples, train=0, validation=0)
    task = dataclasses.replace(run.task, name="theirs", sha256="b" * 64, examples=sizes)
    other = dataclasses.replace(run, task=task)
    words = report_text(other)
    assert "The figures are of theirs" in words
    assert "1.4 epochs of mine" in words
    words = comparison_text(other, beside(run, "b"))
    for name in ("theirs", "mine"):
        assert f"test on {name} {format_accuracy(run.scores)}" in words


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


def test_the_name_of_a_run_is_not_read_as_mathematics() -> None:
    names = ("_base", "lr$_{0^1$", "back\\slash", 300 * "long")
    image = plots.validation_curves(dict.fromkeys(names, validations()))
    assert image.startswith(b"\x89PNG")
