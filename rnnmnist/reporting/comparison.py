"""Several runs side by side: what they are, what they differ in, how they did."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from rnnmnist.config.schema import DATA_PATHS, flatten
from rnnmnist.evaluation.formatting import interval, percent
from rnnmnist.evaluation.intervals import wilson_interval
from rnnmnist.reporting import plots
from rnnmnist.reporting.html import Cell, Link, Page, Section, Table
from rnnmnist.reporting.pages import ReportContext
from rnnmnist.reporting.run_data import Line, RunData
from rnnmnist.reporting.sections import counted, in_both_palettes


def place_of(workdirs: Sequence[Path]) -> Path:
    """Where a comparison is written: `report` in the nearest folder above all runs."""
    return Path(os.path.commonpath([path.parent for path in workdirs])) / "report"


def comparison_page(
    runs: Sequence[RunData], folder: Path, occasion: ReportContext
) -> Page:
    """The page that compares runs.

    Args:
        runs: at least two.
        folder: that the page will lie in.
        occasion: of the comparison.
    """
    names = [run.workdir.relative_to(folder.parent).as_posix() for run in runs]
    best = {
        data_set: max(
            (run for run in runs if run.test["dataset"] == data_set),
            key=_validated_with,
        )
        for data_set in sorted({run.test["dataset"] for run in runs})
    }
    lead = [
        f"Best on validation, {data_set}: {names[runs.index(run)]}, with "
        f"{', '.join(_test(run).splitlines())} of the test images right."
        for data_set, run in best.items()
    ]
    lead.append(
        "Which run is better is for validation to say; where its intervals overlap, "
        "it may be chance."
    )
    answer, answer_to = f"{len(runs)} runs", f"on {' and '.join(best)}"
    if len(best) == 1:
        (run,) = best.values()
        answer = percent(run.test["accuracy"])
        answer_to = f"of the test images right by {names[runs.index(run)]}, of "
        answer_to += f"{len(runs)} runs the best on validation"
    return Page(
        title="Runs compared",
        answer=answer,
        answer_to=answer_to,
        lead=lead,
        sections=[_table(runs, names, folder), _curves(runs, names)],
        cards=[occasion.card],
    )


def differing(runs: Sequence[RunData]) -> list[str]:
    """The settings that are not the same in all runs, places of data aside."""
    settings = [flatten(run.config.to_dict()) for run in runs]
    return [
        name
        for name in settings[0]
        if name not in DATA_PATHS and len({str(own[name]) for own in settings}) > 1
    ]


def _validated_with(run: RunData) -> float:
    return -1.0 if run.validation is None else float(run.validation["accuracy"])


def _table(runs: Sequence[RunData], names: Sequence[str], folder: Path) -> Section:
    differ = differing(runs)
    rows: list[list[Cell]] = []
    for run, name in zip(runs, names, strict=True):
        page = Path(os.path.relpath(run.workdir / "report" / "index.html", folder))
        settings = flatten(run.config.to_dict())
        rows.append(
            [
                Link(name, quote(page.as_posix())),
                "\n".join(f"{name} {settings[name]}" for name in differ) or "none",
                _validation(run.validation),
                _test(run),
                f"{run.test['num_parameters']:,}",
                "not recorded" if run.seconds is None else f"{run.seconds:,.1f}",
            ]
        )
    text = (
        "Accuracies with their counts and 95 % intervals: over images for one network, "
        "and for the tests of several over seeds."
    )
    header = ["run", "what differs", "validation", "test", "parameters", "seconds"]
    return Section("Side by side", [text], table=Table(header, rows))


def _validation(validation: Line | None) -> str:
    if validation is None:
        return "not validated"
    text = percent(validation["accuracy"])
    if not counted(validation):
        return text
    if "members" in validation:
        return f"{text}\n{counted(validation)}"
    ends = wilson_interval(validation["correct"], validation["examples"])
    return f"{text}\n{counted(validation)}\n{interval(ends)}"


def _test(run: RunData) -> str:
    text, test = percent(run.test["accuracy"]), run.test
    if len(run.members) > 1:
        ends = interval(test["accuracy_mean_interval"])
        return f"{text}\n{counted(test)}, {len(run.members)} seeds\n{ends}"
    return f"{text}\n{counted(test)}\n{interval(test['accuracy_interval'])}"


def _curves(runs: Sequence[RunData], names: Sequence[str]) -> Section:
    title = "Validation while they learned"
    drawn = {
        name: run.validated
        for name, run in zip(names, runs, strict=True)
        if run.validated
    }
    missing = [name for name in names if name not in drawn]
    text = [f"Without metrics.jsonl, so without a curve: {', '.join(missing)}."]
    if not drawn:
        return Section(title, text)
    words = " ".join(
        f"{name}: from {percent(lines[0]['accuracy'])} at step {lines[0]['step']:,} to "
        f"{percent(lines[-1]['accuracy'])} at step {lines[-1]['step']:,}."
        for name, lines in drawn.items()
    )
    return Section(
        title,
        text if missing else [],
        in_both_palettes(
            "validation",
            lambda palette: plots.validation_curves(drawn, palette),
            f"Validation accuracy over the steps. {words}",
        ),
    )
