"""Renders the benchmark tables for `tools/render_pages.py`."""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import page_tables

NUMBERS = Path(__file__).resolve().parent / "results.json"
PRODUCT_SIZE = 2048  # rows and columns of the matrices in the measured products
# Operations of the matrix products that train the LSTM on one image, for 28 rows of 28
# pixels, 128 units and 4 gates. The backward pass computes the gradient with respect to
# both kernels and the hidden state, but not with respect to the pixels.
FORWARD_FLOP = 2 * 28 * (28 + 128) * 4 * 128
BACKWARD_FLOP = FORWARD_FLOP + 2 * 28 * 128 * 4 * 128
FLOP_PER_IMAGE = FORWARD_FLOP + BACKWARD_FLOP
# From target accuracy to mean correct predictions out of 10,000.
TARGET_COUNTS = {"98.5": 9850, "99.0": 9900}
Rounds = Sequence[dict[str, float]]


def read(path: Path = NUMBERS) -> dict[str, Any]:
    """Reads stored measurements."""
    measured: dict[str, Any] = json.loads(path.read_text())
    return measured


def tables(measured: dict[str, Any]) -> str:
    """Renders all tables of benchmarks/README.md."""
    parts = (throughput, evaluation, jobs, accuracy, seeds, batches, starts, origin)
    return "\n".join(part(measured) for part in parts)


def summary(measured: dict[str, Any]) -> str:
    """Compares rnnmnist with the fastest mode of each peer."""
    peers = ("Flax", "PyTorch")
    rows = []
    for title, section in (
        ("training, batch 128, images/s", "throughput"),
        ("evaluation, images/s", "evaluation"),
    ):
        peer_modes = [fastest_mode(measured[section], peer) for peer in peers]
        modes = ["rnnmnist", *peer_modes]
        found = [speeds(measured[section][mode]) for mode in modes]
        rows.append([title, *map(format_speeds, found)])
    processes = ("rnnmnist, warm cache", *peers)
    seconds = [format_seconds(measured["jobs"][name]) for name in processes]
    rows.append(["781 steps and evaluation on the test split, seconds", *seconds])
    for target, recipes in measured["accuracy"].items():
        cells = [
            f"{format_seconds(seconds_of(recipes[name]))}, "
            f"{mean_accuracy(recipes[name], target, '.2f')}"
            for name in processes
        ]
        rows.append([f"recipe for {target} %: seconds, accuracy", *cells])
    return (
        f"{page_tables.table(('', 'rnnmnist', *peers), rows)}\n"
        "rnnmnist uses a warm compilation cache. Each speed of Flax and PyTorch is the "
        "speed of their fastest mode (batch size of the evaluation, torch.compile, "
        "oneDNN on or off). The numbers are medians over rounds, with minimum and "
        f"maximum. Hardware: {measured['hardware']}.\n"
    )


def mean_accuracy(runs: Sequence[dict[str, Any]], target: str, spec: str) -> str:
    """Formats the mean accuracy of runs, and marks a missed target."""
    correct = statistics.mean(run["correct"] for run in runs)
    missed = " (missed)" if correct < TARGET_COUNTS[target] else ""
    return f"{correct / 100:{spec}} %{missed}"


def seconds_of(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Returns the seconds of each run."""
    return [run["seconds"] for run in runs]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table with a title above it."""
    return f"**{title}**\n\n{page_tables.table(header, rows)}"


def median_and_range(values: Sequence[float], spec: str) -> str:
    """Formats median, minimum and maximum, such as `2.0 (1.0 to 3.0)`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{spec}} ({low:{spec}} to {high:{spec}})"


def speeds(rounds: Rounds) -> list[float]:
    """Returns the amount of work per second of each round."""
    return [entry["amount"] / entry["seconds"] for entry in rounds]


def section_speeds(measured: dict[str, Any], section: str) -> dict[str, list[float]]:
    """Returns the speeds of each worker in a section."""
    return {name: speeds(rounds) for name, rounds in measured[section].items()}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divides the values of each round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def format_speeds(found: Sequence[float]) -> str:
    """Formats speeds as integers."""
    return median_and_range(found, ",.0f")


def format_seconds(found: Sequence[float]) -> str:
    """Formats seconds with one decimal."""
    return median_and_range(found, ".1f")


def format_ratios(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Formats the ratios over all rounds."""
    return median_and_range(ratios(ours, theirs), ".2f")


def relative_rows(
    found: Mapping[str, Sequence[float]], reference: str, spec: str
) -> list[list[str]]:
    """Lists the values of each name, and their ratio to the values of a reference."""
    return [
        [name, median_and_range(values, spec), format_ratios(values, found[reference])]
        for name, values in found.items()
    ]


def fastest_mode(section: Mapping[str, Rounds], framework: str) -> str:
    """Returns the mode of a framework with the highest median speed."""
    modes = [name for name in section if name.split(",")[0] == framework]
    return max(modes, key=lambda name: statistics.median(speeds(section[name])))


def ceiling(section: Mapping[str, Rounds]) -> list[float]:
    """Returns the images per second if training were only matrix products."""
    fastest = fastest_mode(section, "product")
    return [speed / FLOP_PER_IMAGE for speed in speeds(section[fastest])]


def throughput(measured: dict[str, Any]) -> str:
    """Compares the training speed with the peers and with the ceiling."""
    section, rows = measured["throughput"], []
    ours, top = speeds(section["rnnmnist"]), ceiling(section)
    for name, rounds in section.items():
        found = speeds(rounds)
        if name.startswith("product"):
            gigaflops = statistics.median(found) / 1e9
            name = f"{PRODUCT_SIZE}³ {name}: {gigaflops:.0f} GFLOP/s"
            found = [speed / FLOP_PER_IMAGE for speed in found]
        percent = median_and_range([100 * ratio for ratio in ratios(found, top)], ".0f")
        rows.append([name, format_speeds(found), format_ratios(ours, found), percent])
    header = ("batch 128", "images/s", "speedup of rnnmnist", "% of the ceiling")
    return table("Training", header, rows)


def evaluation(measured: dict[str, Any]) -> str:
    """Compares the evaluation speed with the peers."""
    found = section_speeds(measured, "evaluation")
    ours = found["rnnmnist"]
    rows = [
        [name, format_speeds(speed), format_ratios(ours, speed)]
        for name, speed in found.items()
    ]
    header = ("10,000 images", "images/s", "speedup of rnnmnist")
    return table("Evaluation", header, rows)


def jobs(measured: dict[str, Any]) -> str:
    """Compares the seconds of whole processes."""
    title = "781 steps and evaluation on 10,000 test images"
    header = ("process", "seconds", "relative to rnnmnist, warm cache")
    rows = relative_rows(measured["jobs"], "rnnmnist, warm cache", ".1f")
    return table(title, header, rows)


def accuracy(measured: dict[str, Any]) -> str:
    """Compares the runs of all frameworks for each target accuracy."""
    rows = []
    for target, recipes in measured["accuracy"].items():
        ours = seconds_of(recipes["rnnmnist, warm cache"])
        for name, runs in recipes.items():
            seconds = seconds_of(runs)
            rows.append(
                [
                    f"{target} %",
                    name,
                    str(runs[0]["epochs"]),
                    format_seconds(seconds),
                    format_ratios(seconds, ours),
                    mean_accuracy(runs, target, ".3f"),
                    ", ".join(f"{run['correct']:,}" for run in runs),
                ]
            )
    header = (
        "target",
        "framework",
        "epochs",
        "seconds",
        "relative to rnnmnist, warm cache",
        "mean accuracy",
        "correct predictions per seed",
    )
    return table("Time to accuracy on 10,000 test images", header, rows)


def seeds(measured: dict[str, Any]) -> str:
    """Compares the training speed of ensembles of several sizes."""
    header = ("seeds in one program", "images/s, all seeds", "relative to one seed")
    rows = relative_rows(section_speeds(measured, "seeds"), "1", ",.0f")
    return table("Seeds", header, rows)


def batches(measured: dict[str, Any]) -> str:
    """Compares the training speed at several batch sizes."""
    found, top = section_speeds(measured, "batches"), ceiling(measured["batches"])
    rows = []
    names = [name.rpartition(" ") for name in found if "product" not in name]
    ours, *peers = dict.fromkeys(name for name, _, _ in names)
    for size in dict.fromkeys(size for _, _, size in names):
        speed, *others = (found[f"{name} {size}"] for name in (ours, *peers))
        ratio = format_ratios(speed, max(others, key=statistics.median))
        percent = median_and_range([100 * share for share in ratios(speed, top)], ".0f")
        rows.append([size, *map(format_speeds, (speed, *others)), ratio, percent])
    header = (
        "batch size",
        ours,
        *peers,
        "speedup over the faster mode",
        "% of the ceiling",
    )
    return table("Images/s by batch size", header, rows)


def starts(measured: dict[str, Any]) -> str:
    """Lists the seconds of process starts and of the default run."""
    rows = [
        [name, median_and_range(values, ".2f")]
        for name, values in measured["starts"].items()
    ]
    rows += [
        [
            f"run of `default` with prepared data, {cores}",
            f"{run['seconds']:.1f} (CPU time {run['processor_seconds']:.1f})",
        ]
        for cores, run in measured["default_run"].items()
    ]
    return table("Whole processes", ("measurement", "seconds"), rows)


def origin(measured: dict[str, Any]) -> str:
    """States the hardware, versions, commit and command of the measurements."""
    versions = page_tables.format_versions(measured["versions"])
    return (
        f"Hardware: {measured['hardware']}. Versions: {versions}, torch "
        f"{measured['torch']}. The numbers are medians over rounds, with minimum and "
        f"maximum, from one run on {measured['date']} at commit {measured['commit']}: "
        f"`{measured['command']}`.\n"
    )
