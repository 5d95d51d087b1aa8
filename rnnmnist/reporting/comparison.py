"""The page that compares several runs: their settings, results and curves."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.evaluation.metrics import format_accuracy
from rnnmnist.reporting import plots
from rnnmnist.reporting.pages import Entries, Section, render_page
from rnnmnist.reporting.run_data import RunData


def comparison_folder(workdirs: Sequence[Path]) -> Path:
    """Returns `report` in the nearest folder that contains all runs."""
    return Path(os.path.commonpath([path.parent for path in workdirs])) / "report"


def comparison_page(
    runs: Sequence[RunData], folder: Path, provenance: Entries
) -> dict[str, bytes]:
    """Returns the comparison of runs for `comparison_folder`: its files by name."""
    named = {run.workdir.relative_to(folder.parent).as_posix(): run for run in runs}
    ranked = sorted(
        named.items(),
        key=lambda item: item[1].validation.accuracy if item[1].validation else -1,
        reverse=True,
    )
    dataset_of = _datasets(named)
    best: dict[str, str] = {}  # the name of a run for each data set
    for name, _ in ranked:
        best.setdefault(dataset_of[name], name)
    curves = {name: run.validated for name, run in named.items() if run.validated}
    sections = {
        "results": Section(_results(named, folder)),
        "validation": Section(
            picture=plots.validation_curves(curves) if curves else None
        ),
    }
    return render_page(
        "comparison.html", sections, runs=named, best=best, provenance=provenance
    )


def differing_settings(runs: Sequence[RunData]) -> list[str]:
    """Returns the settings in which runs differ, except the paths of data."""
    settings = [run.config.flat() for run in runs]
    return [
        name
        for name in settings[0]
        if name not in DATA_PATHS and len({str(one[name]) for one in settings}) > 1
    ]


def _results(named: dict[str, RunData], folder: Path) -> list[list[str]]:
    """Returns the table of results, with a link to the report of each run."""
    differing = differing_settings(list(named.values()))
    rows = []
    for name, run in named.items():
        page = Path(os.path.relpath(run.workdir / "report" / "index.html", folder))
        settings = run.config.flat()
        rows.append(
            [
                Markup('<a href="{}">{}</a>').format(quote(page.as_posix()), name),
                "\n".join(f"{key} {settings[key]}" for key in differing) or "none",
                format_accuracy(run.validation) if run.validation else "not validated",
                f"{run.evaluated} {format_accuracy(run.scores)}",
                f"{run.num_parameters:,}",
                run.seconds,
            ]
        )
    return rows


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
