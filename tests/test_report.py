"""The report: its files, its page, and the runs that it compares."""

import dataclasses
import datetime
import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from support import REPOSITORY, Command, in_a_browser, one_line_error, refused

from rnnmnist import report
from rnnmnist.errors import UserError
from rnnmnist.evaluation.formatting import probability
from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.reporting import html, plots
from rnnmnist.reporting.comparison import comparison_page, differing, place_of
from rnnmnist.reporting.pages import (
    ReportContext,
    check_place,
    report_page,
    write_files,
)
from rnnmnist.reporting.run_data import RunData, load_run_data, read_sessions
from rnnmnist.reporting.sections import bands

PICTURES = ["curves", "confusion", "rows", "classes", "gallery", "reliability"]
NOW = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
OCCASION = ReportContext("python -m rnnmnist.report", NOW)


@dataclasses.dataclass(frozen=True)
class Reported:
    """Two runs after the command, and what it printed."""

    first: Path
    second: Path
    output: str


@pytest.fixture(scope="module")
def reported(
    once: Callable[[str, Callable[[Path], None]], Path],
    reference_run: Path,
    command: Command,
    data_dir: Path,
) -> Reported:
    """A run, and its copy from which all but the parameters was taken."""

    def paths(folder: Path) -> tuple[Path, Path]:
        return folder / "runs" / "first", folder / "runs" / "deeper #1" / "second"

    def report(folder: Path) -> None:
        first, second = paths(folder)
        shutil.copytree(reference_run, first)
        shutil.copytree(reference_run, second)
        (second / "metrics.jsonl").unlink()
        shutil.rmtree(second / "evaluation")
        place = f"--config.data.data_dir={data_dir}"
        finished = command("report", f"--workdir={first}", f"--workdir={second}", place)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
        (folder / "output").write_text(finished.stdout)

    folder = once("reported", report)
    return Reported(*paths(folder), (folder / "output").read_text())


@pytest.fixture(scope="module")
def findings(reported: Reported, data_dir: Path) -> RunData:
    """What is known of the first run."""
    return load_run_data(reported.first, "best", {"data.data_dir": str(data_dir)})


@pytest.fixture(scope="module")
def stack(findings: RunData) -> RunData:
    """As `findings` of three seeds, of which each gets three images less right."""
    tables, networks = [], []
    for less in (0, 3, 6):
        (answers,) = findings.networks
        said = answers.said.copy()
        said[np.flatnonzero(answers.right)[:less], -1] = (
            answers.labels[np.flatnonzero(answers.right)[:less]] + 1
        ) % 10
        networks.append(answers._replace(said=said))
        table = np.zeros((10, 10), int)
        np.add.at(table, (answers.labels, said[:, -1]), 1)
        tables.append(table)
    members = [
        {
            "seed": seed,
            "examples": 500,
            "correct": int(table.trace()),
            "accuracy": table.trace() / 500,
            "accuracy_interval": wilson_interval(int(table.trace()), 500),
            "loss": 1.5,
            "confusion": table.tolist(),
        }
        for seed, table in enumerate(tables)
    ]
    mean = sum(member["accuracy"] for member in members) / 3
    test = findings.test | {
        "accuracy": mean,
        "accuracy_mean": mean,
        "accuracy_std": 0.006,
        "accuracy_mean_interval": [mean - 0.015, mean + 0.015],
        "correct": sum(member["correct"] for member in members),
        "confusion": np.sum(tables, axis=0).tolist(),
        "members": members,
    }
    metrics = [
        line
        | {
            "members": [
                {"seed": seed, "loss": line["loss"] * (1 + seed / 10), "accuracy": 0.5}
                for seed in range(3)
            ]
        }
        for line in findings.metrics
    ]
    return dataclasses.replace(findings, test=test, networks=networks, metrics=metrics)


class Predictor(HTMLParser):
    """Every tag of a page with its attributes, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
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
            self.words += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(page: html.Page) -> Predictor:
    return Predictor(html.write(page))


def spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_files_are_pictures_in_both_palettes_and_one_page(
    reported: Reported,
) -> None:
    report = reported.first / "report"
    names = {f"{name}{ending}.png" for name in PICTURES for ending in ("", "-dark")}
    assert {path.name for path in report.iterdir()} == names | {"index.html"}
    for name in names:
        content = (report / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20], "big") == 960
    second = {path.name for path in (reported.second / "report").iterdir()}
    assert second == {name for name in names if "curves" not in name} | {"index.html"}
    together = reported.first.parent / "report"
    assert {path.name for path in together.iterdir()} == {
        "index.html",
        "validation.png",
        "validation-dark.png",
    }
    printed = [line for line in reported.output.splitlines() if line.startswith("/")]
    folders = (report, reported.second / "report", together)
    assert sorted(printed) == sorted(str(p) for f in folders for p in f.iterdir())


def test_a_report_adds_nothing_to_a_run_but_itself_and_the_reading(
    reported: Reported,
) -> None:
    kept = {path.name for path in reported.first.iterdir() if not path.name.isdigit()}
    logs = {"sessions.jsonl", "test_readings.jsonl"}
    assert kept == logs | {"config.json", "metrics.jsonl", "evaluation", "report"}
    log = (reported.second / "test_readings.jsonl").read_text()
    line = json.loads(log.splitlines()[-1])
    assert line["command"] == "report"
    assert not (reported.second / "evaluation").exists()


def test_the_page_is_whole_without_a_network(reported: Reported) -> None:
    for folder in (reported.first, reported.second, reported.first.parent):
        html = (folder / "report" / "index.html").read_text()
        predictor = Predictor(html)
        assert predictor.all("html") == [{"lang": "en"}]
        (viewport,) = [
            meta for meta in predictor.all("meta") if meta.get("name") == "viewport"
        ]
        assert "width=device-width" in viewport["content"]
        assert predictor.all("script") == []
        assert not re.search(r"https?:|url\(|@import", html)
        for _, attributes in predictor.tags:
            for name in ("src", "srcset", "href"):
                value = attributes.get(name)
                assert value is None or re.match(r"data:|\.\./|[\w-]+/", value)


def test_every_picture_is_told_in_words_and_numbers(reported: Reported) -> None:
    predictor = Predictor((reported.first / "report" / "index.html").read_text())
    pictures = predictor.all("img")
    assert len(pictures) == len(predictor.all("source")) == len(PICTURES)
    for picture in pictures:
        assert len(picture["alt"]) > 60
        assert re.search(r"\d", picture["alt"])
        assert int(picture["width"]) == 960
    assert len({picture["alt"] for picture in pictures}) == len(pictures)
    assert len(predictor.all("details")) == len(PICTURES)


def test_the_page_says_what_the_result_file_says(reported: Reported) -> None:
    (path,) = (reported.first / "evaluation").glob("test-*.json")
    document = json.loads(path.read_text())
    html = (reported.first / "report" / "index.html").read_text()
    words = spaced(Predictor(html).words)
    assert f"{100 * document['accuracy']:.2f} %" in words
    assert f"{document['correct']} of 500" in words
    low, high = document["accuracy_interval"]
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in words
    assert document["params_sha256"] in words
    assert f"{document['num_parameters']:,}" in words
    assert "model.hidden_size" in words
    assert "Asked again" not in words  # the same count, from the answers by row
    assert reported.output.startswith("mnist5k test at step ")


def test_the_copy_says_that_it_has_no_curves(reported: Reported) -> None:
    html = (reported.second / "report" / "index.html").read_text()
    assert "metrics.jsonl is not in this workdir" in html


def test_the_comparison_leads_to_each_report(reported: Reported) -> None:
    together = reported.first.parent / "report"
    predictor = Predictor((together / "index.html").read_text())
    targets = [link["href"] for link in predictor.all("a")]
    assert [(together / unquote(target)).resolve() for target in targets] == [
        folder / "report" / "index.html" for folder in (reported.first, reported.second)
    ]
    assert "deeper #1/second" in predictor.words
    assert "without a curve: deeper #1/second" in predictor.words


def test_the_comparison_shows_the_settings_that_differ(findings: RunData) -> None:
    other = findings.config.replace({"model.cell": "gru", "data.data_dir": "/there"})
    runs = [
        findings,
        dataclasses.replace(
            findings, config=other, workdir=findings.workdir.with_name("gru")
        ),
    ]
    assert differing(runs) == ["model.cell"]
    folder = place_of([run.workdir for run in runs])
    assert folder == findings.workdir.parent / "report"
    words = read(comparison_page(runs, folder, OCCASION)).words
    assert "model.cell gru" in words
    assert "model.hidden_size 48" not in words


def test_a_run_inside_another_keeps_the_others_report() -> None:
    assert place_of([Path("/a/runs"), Path("/a/runs/b")]) == Path("/a/report")


def test_a_stack_of_seeds_is_told_by_network(stack: RunData) -> None:
    predictor = read(report_page(stack, OCCASION))
    words = spaced(predictor.words)
    for member in stack.members:
        assert f"{member['correct']:,}" in words
        assert f"seed {member['seed']}" in words
    assert "on average over 3 networks" in words
    assert "Each network is an LSTM with 48 units and reads" in words
    assert "Standard deviation over seeds 0.60 points" in words
    assert "wrong answers by the network of seed 0" in words
    assert "lowest to highest" in words
    assert f"{stack.test['correct']:,} of 500" not in words  # sums are no shares of it
    assert "Asked again" not in words
    other = dataclasses.replace(stack, workdir=stack.workdir.with_name("other"))
    folder = place_of([stack.workdir, other.workdir])
    words = read(comparison_page([stack, other], folder, OCCASION)).words
    assert "on average, 3 seeds" in words


def test_bands_of_one_network_are_over_images_of_several_over_networks() -> None:
    (one,) = bands([[90]], [100])
    assert one.middle == 0.9
    assert (one.low, one.high) == wilson_interval(90, 100)
    first, second = bands([[90, 1], [80, 1], [70, 4]], [100, 4])
    assert first == pytest.approx((0.7, 0.8, 0.9))
    assert second == pytest.approx((0.25, 0.5, 1.0))


def test_a_run_of_several_sessions_that_was_counted_elsewhere(
    tmp_path: Path, findings: RunData
) -> None:
    path = tmp_path / "sessions.jsonl"
    assert read_sessions(path) == []
    start = {"event": "start", "time": "2026-01-02T03:04:05+00:00", "step": 0}
    more = {"hardware": "a <fast> one", "devices": "2", "versions": {"jax": "1.2"}}
    end = {"event": "end", "time": "later", "step": 60}
    lines = [start | more, start, end | {"seconds": {"train": 5.5, "total": 7.25}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    sessions = read_sessions(path)
    assert [session.end is None for session in sessions] == [True, False]
    (answers,) = findings.networks
    flipped = answers.said.copy()  # as another device may round them
    place = np.flatnonzero(answers.right)[0]
    flipped[place, -1] = (flipped[place, -1] + 1) % 10
    networks = [answers._replace(said=flipped)]
    run = dataclasses.replace(findings, sessions=sessions, networks=networks)
    assert run.seconds == 7.25
    words = read(report_page(run, OCCASION)).words
    assert "7.2, in 2 sessions, without 1 that did not end" in words
    assert "a <fast> one" in words
    assert "2026-01-02 03:04 UTC" in words
    assert "no recorded end" in words
    assert f"Asked again for this report, {findings.test['correct'] - 1} are" in words


def test_a_network_without_mistakes_has_a_report(findings: RunData) -> None:
    (answers,) = findings.networks
    said = np.repeat(answers.labels[:, None], 28, axis=1)
    sure = np.eye(10)[answers.labels]
    table = np.diag(np.bincount(answers.labels, minlength=10)).tolist()
    test = findings.test | {"correct": 500, "accuracy": 1.0, "confusion": table}
    test["accuracy_interval"] = wilson_interval(500, 500)
    perfect = answers._replace(said=said, probabilities=sure)
    run = dataclasses.replace(findings, test=test, networks=[perfect])
    words = spaced(read(report_page(run, OCCASION)).words)
    assert "No image of the test split is wrong" in words
    assert "100.00 %" in words


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100.00 %"), (0.99999, "> 99.99 %"), (0.5, "50.00 %"), (0, "0.00 %")],
)
def test_only_certainty_is_a_hundred_per_cent(share: float, text: str) -> None:
    assert spaced(probability(share)) == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--workdir"),
        (["--workdir=a", "--workdir=a"], "a is given more than once"),
        (["--workdir=a", "--workdirs=b"], "did you mean --workdir"),
        (["--workdir=a", "--split=train"], "--split: no such flag"),
        (["--workdir=a", "b"], "stray argument 'b'"),
        (["--workdir=a", "--config.seed=1"], "--config.seed: no such flag"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        report.parse(words)


def test_a_mistake_is_one_line(command: Command) -> None:
    assert "--workdir" in one_line_error(command("report"))


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    """It is found before the others are read."""
    there, missing = REPOSITORY / "checkpoints" / "reference", tmp_path / "run"
    error = refused("report", f"--workdir={there}", f"--workdir={missing}")
    assert f"{tmp_path / 'run'} does not exist" in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_reports_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    (folder / "src").mkdir(parents=True)
    (folder / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"which holds src, .* move it away"):
        check_place(folder)
    assert (folder / "index.html").read_text() == "mine"


def test_a_file_in_the_reports_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(UserError, match="report cannot be written"):
        check_place(tmp_path / "report")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_workdir_is_found_first(reported: Reported, tmp_path: Path) -> None:
    workdir = shutil.copytree(reported.second, tmp_path / "run")
    shutil.rmtree(workdir / "report")
    workdir.chmod(0o555)
    try:
        with pytest.raises(UserError, match="report cannot be written"):
            check_place(workdir / "report")
    finally:
        workdir.chmod(0o755)


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_the_pages_in_a_browser(
    browser: Any,
    reported: Reported,
    stack: RunData,
    tmp_path: Path,
    width: int,
    height: int,
    scheme: str,
) -> None:
    write_files(tmp_path / "report", report_page(stack, OCCASION))
    for folder in (reported.first, reported.second, reported.first.parent, tmp_path):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        page = context.new_page()
        faults: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, faults=faults: faults.append(message.text))
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.on("request", lambda sent, requests=requests: requests.append(sent.url))
        page.goto((folder / "report" / "index.html").as_uri(), wait_until="load")
        for details in page.locator("summary").all():
            details.click()
        assert faults == []
        assert all(url.startswith(("file:", "data:")) for url in requests)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        loaded = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert all(loaded), loaded
        drawn = page.evaluate("[...document.images].map(i => i.currentSrc)")
        wanted = page.evaluate(
            "[...document.images].map(i => matchMedia('(prefers-color-scheme: dark)')"
            ".matches ? i.parentElement.querySelector('source').srcset : i.src)"
        )
        assert drawn == wanted
        ground = page.evaluate("getComputedStyle(document.documentElement).background")
        assert ("rgb(20, 23, 27)" in ground) == (scheme == "dark")
        context.close()


def test_a_runs_name_is_a_name_and_not_mathematics(findings: RunData) -> None:
    names = ("_base", "lr$_{0^1$", "back\\slash", 300 * "long")
    image = plots.validation_curves(dict.fromkeys(names, findings.validated))
    assert image.startswith(b"\x89PNG")
