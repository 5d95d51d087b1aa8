"""The page that compares several runs: their settings, results and curves."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.evaluation.accuracies import percent
from rnnmnist.evaluation.metrics import format_accuracy
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import Card, Cell, Link, Page, Picture, Section, Table
from rnnmnist.reporting.run_data import RunData


def comparison_folder(workdirs: Sequence[Path]) -> Path:
    """Returns `report` in the nearest folder that contains all runs."""
    return Path(os.path.commonpath([path.parent for path in workdirs])) / "report"


def comparison_page(runs: Sequence[RunData], folder: Path, card: Card) -> Page:
    """Returns the page that compares two or more runs, for `comparison_folder`."""
    named = {run.workdir.relative_to(folder.parent).as_posix(): run for run in runs}
    dataset_of = _datasets(named)
    datasets = sorted(set(dataset_of.values()))
    best = [
        max(
            (item for item in named.items() if dataset_of[item[0]] == dataset),
            key=lambda item: item[1].validation.accuracy if item[1].validation else -1,
        )
        for dataset in datasets
    ]
    lead = [
        f"Best validation accuracy on {dataset}: {name}, with a {run.split} accuracy"
        f"{_on_other(run)} of {format_accuracy(run.result)}."
        for dataset, (name, run) in zip(datasets, best, strict=True)
    ]
    lead.append(
        "Select runs by validation accuracy. If two intervals overlap, the difference "
        "may be due to chance."
    )
    return Page(
        title="Comparison of runs",
        headline=f"{len(runs)} runs",
        caption=f"on {' and '.join(datasets)}",
        lead=lead,
        sections=[_results(named, folder), _validation_curves(named)],
        cards=[card],
    )


def differing_settings(runs: Sequence[RunData]) -> list[str]:
    """Returns the settings in which runs differ, except the paths of data."""
    settings = [run.config.flat() for run in runs]
    return [
        name
        for name in settings[0]
        if name not in DATA_PATHS and len({str(one[name]) for one in settings}) > 1
    ]


def _results(named: dict[str, RunData], folder: Path) -> Section:
    differing = differing_settings(list(named.values()))
    rows: list[list[Cell]] = []
    for name, run in named.items():
        page = Path(os.path.relpath(run.workdir / "report" / "index.html", folder))
        settings = run.config.flat()
        rows.append(
            [
                Link(name, quote(page.as_posix())),
                "\n".join(f"{key} {settings[key]}" for key in differing) or "none",
                format_accuracy(run.validation) if run.validation else "not validated",
                _test(run),
                f"{run.result.num_parameters:,}",
                "not recorded" if run.seconds is None else f"{run.seconds:,.1f}",
            ]
        )
    text = "Intervals are over examples; those of a mean accuracy are over seeds."
    header = ["run", "settings", "validation", "test", "parameters", "seconds"]
    return Section("Results", [text], table=Table(header, rows))


def _datasets(named: dict[str, RunData]) -> dict[str, str]:
    """Returns the training data of each run: their name, with SHA-256 if ambiguous."""
    tasks = {name: run.trained for name, run in named.items()}
    keys = {(task.name, task.sha256) for task in tasks.values()}
    numbers = Counter(name for name, _ in keys)
    return {
        name: f"{task.name} ({str(task.sha256)[:8]})"
        if numbers[task.name] > 1
        else task.name
        for name, task in tasks.items()
    }


def _on_other(run: RunData) -> str:
    """Returns ` on NAME` if the evaluated data are not those of the training."""
    return f" on {run.task.name}" if run.result.of_other_data else ""


def _test(run: RunData) -> str:
    """Formats the accuracy, and names what it is of unless that is the test split."""
    evaluated = f"{run.split}{_on_other(run)}"
    accuracy = format_accuracy(run.result)
    return accuracy if evaluated == "test" else f"{evaluated}: {accuracy}"


def _validation_curves(named: dict[str, RunData]) -> Section:
    title = "Validation curves"
    drawn = {name: run.validated for name, run in named.items() if run.validated}
    missing = ", ".join(name for name in named if name not in drawn)
    text = [f"Runs without metrics.jsonl: {missing}."] if missing else []
    if not drawn:
        return Section(title, text)
    ranges = " ".join(
        f"{name}: from {percent(lines[0].accuracy)} at step {lines[0].step:,} to "
        f"{percent(lines[-1].accuracy)} at step {lines[-1].step:,}."
        for name, lines in drawn.items()
    )
    alt = f"Validation accuracy over steps. {ranges}"
    return Section(
        title, text, Picture("validation", plots.validation_curves(drawn), alt)
    )
