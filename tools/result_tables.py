"""Renders tables and a figure from result files, for `render_pages.py`."""

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import page_tables
from matplotlib.figure import Figure
from result_files import read_result
from scipy import stats

from results import (
    ABLATION,
    ARCHIVE,
    ARCHIVE_FILTERS,
    ARCHIVE_LSTM,
    REFERENCES,
    Row,
)
from rnnmnist.evaluation.formatting import (
    format_interval,
    format_mean_and_std,
    format_percent,
)
from rnnmnist.reporting import plots

# The rows of the README's table, with their data and recipe.
HEADLINE = {
    "embedded": (
        "4,000 of 5,000 bundled MNIST images",
        "48 epochs, shifts of up to 2 pixels",
    ),
    "tutorial": ("MNIST", "the 2016 tutorial, 1.8 epochs"),
    "default": ("MNIST", "10 epochs, no augmentation"),
    "best": ("MNIST", "60 epochs, augmentation"),
    "fashion": ("Fashion-MNIST", "50 epochs, augmentation"),
}


def accuracy_over_seeds(result: dict[str, Any]) -> str:
    """Formats mean and standard deviation of the accuracy over seeds.

    For a single seed, formats the accuracy and its 95 % interval over images.
    """
    if result["accuracy_std"] is None:
        (member,) = result["members"]
        interval = format_interval(member["accuracy_interval"])
        return f"{format_percent(member['accuracy'])} ({interval})"
    return format_mean_and_std(result["accuracy_mean"], result["accuracy_std"])


def epochs(result: dict[str, Any]) -> float:
    """Computes the number of epochs of a run."""
    train = result["config"]["train"]
    examples = task_of(result)["examples"]["train"]
    return train["num_steps"] * train["batch_size"] / examples


def seconds(result: dict[str, Any]) -> str:
    """Formats the processor seconds of a run, with the vector extension if known."""
    _, _, vectors = result["hardware"].partition(" with ")
    return f"{result['seconds']:.0f}" + (f" ({vectors})" if vectors else "")


# For each column title, a function that formats the cell of a row and its result.
COLUMNS: dict[str, Callable[[Row, dict[str, Any]], str]] = {
    "configuration": lambda row, _: f"`{row.name}`",
    **dict.fromkeys(("network", "change"), lambda row, _: row.label),
    "data": lambda row, _: HEADLINE[row.name][0],
    "recipe": lambda row, _: HEADLINE[row.name][1],
    "epochs": lambda _, result: f"{epochs(result):.0f}",
    "parameters": lambda _, result: f"{result['num_parameters']:,}",
    "test accuracy, mean ± std": lambda _, result: accuracy_over_seeds(result),
    "test accuracy": lambda _, result: accuracy_over_seeds(result),
    "test images": lambda _, result: f"{result['examples']:,}",
    "seeds": lambda _, result: str(len(result["members"])),
    "seconds": lambda _, result: seconds(result),
}


def task_of(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the task in a result."""
    return result["members"][0]["task"]


def table(rows: Iterable[Row], *titles: str) -> str:
    """Renders a table with the given rows and the columns with the given titles."""
    results = [(row, read_result(row.name)) for row in rows]
    lines = [[COLUMNS[title](*result) for title in titles] for result in results]
    return page_tables.table(titles, lines)


def origin(measurements: Mapping[str, Iterable[dict[str, Any]]]) -> str:
    """Lists the hardware of results by label, and the versions of all results."""
    lines, versions = "", set[str]()
    for label, results in measurements.items():
        processors = set[str]()
        for result in results:
            processors.add(result["hardware"].removeprefix("one core of "))
            versions.add(page_tables.format_versions(result["versions"]))
        lines += f"- {label}: {'; '.join(sorted(processors))}\n"
    return f"\n{lines}- Versions: {'; '.join(sorted(versions))}\n"


def origin_of(*groups: Iterable[Row]) -> str:
    """Lists the hardware and versions of groups of rows."""
    return origin(
        {
            "Hardware (one core)": [
                read_result(row.name) for rows in groups for row in rows
            ]
        }
    )


def over_seeds(accuracies: Sequence[float], digits: int = 1) -> str:
    """Formats accuracies as percentages: mean and std, or the accuracy of one seed."""
    numbers = [100 * statistics.mean(accuracies)]
    if len(accuracies) > 1:
        numbers.append(100 * statistics.stdev(accuracies))
    return " ± ".join(f"{number:.{digits}f}" for number in numbers)


def archive() -> str:
    """Renders the table of the archive's data sets, with baseline classifiers."""
    baselines = read_result("baselines")
    lines, means = list[list[str]](), list[list[float]]()
    for rows in zip(ARCHIVE_FILTERS, ARCHIVE, ARCHIVE_LSTM, strict=True):
        label = rows[0].label
        filters, trained, lstm = (read_result(row.name) for row in rows)
        baseline = baselines["datasets"][label]
        correct = (
            [member["correct"] for member in filters["members"]],
            baseline["minirocket"]["correct"],
            [member["correct"] for member in trained["members"]],
            [trained["ensemble_correct"]],
            [member["correct"] for member in lstm["members"]],
            baseline["dtw"]["correct"],
        )
        accuracies = [
            [count / filters["examples"] for count in counts] for counts in correct
        ]
        examples = task_of(filters)["examples"]
        sequences = f"{examples['train']:,} / {examples['test']:,}"
        lines.append([label, sequences, *map(over_seeds, accuracies)])
        means.append([statistics.mean(values) for values in accuracies])
    columns = zip(*means, strict=True)
    mean = [over_seeds([statistics.mean(values)]) for values in columns]
    header = (
        "data set",
        "training / test",
        "filters",
        "MiniRocket",
        "network",
        "ensemble of five",
        "LSTM",
        "1-NN DTW",
    )
    return page_tables.table(header, [*lines, ["mean", "", *mean]])


def sequences_origin() -> str:
    """Lists the hardware and versions for each table of results on sequences."""
    rows = (*ARCHIVE_FILTERS, *ARCHIVE, *ARCHIVE_LSTM)
    measurements = {
        "Archives (one core)": [read_result(row.name) for row in rows],
        "Filters and trained networks": [read_result("few_sequences")],
        "Calibration": [read_result("calibration")],
    }
    baselines = read_result("baselines")
    versions = baselines["versions"].items()
    libraries = ", ".join(f"{name} {version}" for name, version in versions)
    return (
        f"{origin(measurements)}- 1-NN DTW and MiniRocket: {baselines['hardware']}; "
        f"{libraries}\n"
    )


def differences(rows: tuple[Row, ...]) -> str:
    """Renders a table that compares the test accuracy of each row with the row above.

    Differences have 95 % Welch intervals over seeds.
    """
    titles = ("change", "test accuracy, mean ± std")
    lines: list[list[str]] = []
    previous: list[float] = []
    for row in rows:
        result = read_result(row.name)
        percents = [100 * member["accuracy"] for member in result["members"]]
        difference = ""
        if previous:
            test = stats.ttest_ind(percents, previous, equal_var=False)
            low, high = test.confidence_interval(0.95)
            change = statistics.mean(percents) - statistics.mean(previous)
            difference = f"{change:+.2f} ({low:+.2f} to {high:+.2f})"
            if low > 0 or high < 0:
                difference = f"**{difference}**"
        cells = [COLUMNS[title](row, result) for title in titles]
        lines.append([*cells, difference])
        previous = percents
    header = (*titles, "difference from the row above")
    return page_tables.table(header, lines)


def accuracy_by_row() -> str:
    """Renders the table of accuracies after selected image rows, for both losses."""
    after = (4, 8, 12, 16, 20, 24)
    lines = []
    for reference, loss in zip(REFERENCES, ("last", "every_step"), strict=True):
        result = read_result(reference.name)
        members = result["members"]
        counts = np.array([member["correct_by_time"] for member in members])
        percents = 100 * counts.mean(0) / result["examples"]
        decided = statistics.mean(member["decision_time"] for member in members)
        early = [f"{percents[row - 1]:.1f}" for row in after]
        lines.append(
            [f"`{loss}`", accuracy_over_seeds(result), *early, f"{decided:.1f}"]
        )
    header = ["`train.loss`", "test accuracy"]
    header += [*(f"row {row}" for row in after), "decision row"]
    return page_tables.table(header, lines)


def ablation_figure() -> bytes:
    """Plots the test error of each row of the ablation, with a dot for each seed.

    Returns:
        The figure as PNG.
    """
    figure = Figure(figsize=(7.5, 5.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(ABLATION):
        members = read_result(row.name)["members"]
        errors = 100 * (1 - np.array([member["accuracy"] for member in members]))
        heights = place + np.linspace(0.15, 0.35, len(errors))
        axes.plot(errors, heights, "o", color="tab:orange", markersize=3)
        axes.errorbar(
            errors.mean(),
            place,
            xerr=errors.std(ddof=1),
            fmt="s",
            color="tab:blue",
            markersize=4,
            capsize=3,
        )
    labels = [textwrap.fill(row.label.replace("`", ""), 36) for row in ABLATION]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([0.4, 0.6, 1, 2, 3])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("test error, % of 10,000 images, logarithmic")
    axes.grid(axis="x", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return plots.to_png(figure)
