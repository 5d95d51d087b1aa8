"""The tables of the benchmark, for `tools/render_pages.py`."""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnmnist.runtime.machine import join_versions

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import page_tables

NUMBERS = Path(__file__).resolve().parent / "results.json"
FLOP_PER_IMAGE = 3 * 2 * 28 * (28 + 128) * 4 * 128  # once forward, twice backward
# Correct predictions of 10,000, in the mean over seeds, by target accuracy.
TARGET_COUNTS = {"98.5": 9850, "99.0": 9900}
Rounds = Sequence[dict[str, float]]


def read() -> dict[str, Any]:
    """Reads the measurements."""
    return json.loads(NUMBERS.read_text())


def tables(measured: dict[str, Any]) -> str:
    """Returns all tables of benchmarks/README.md."""
    parts = (
        at_the_ceiling,
        throughput,
        evaluation,
        jobs,
        accuracy,
        seeds,
        batches,
        starts,
        origin,
    )
    return "\n".join(part(measured) for part in parts)


def summary(measured: dict[str, Any]) -> str:
    """Compares rnnmnist with the faster mode of each peer."""
    names = ("rnnmnist", "Flax", "PyTorch")
    rows = []
    for title, section in (
        ("training, batch 128, images/s", "throughput"),
        ("evaluation, images/s", "evaluation"),
    ):
        modes = [modes_of(measured[section], name).values() for name in names]
        fastest = [max(map(speeds, own), key=statistics.median) for own in modes]
        rows.append([title, *(median_and_range(own, ",.0f") for own in fastest)])
    modes = [modes_of(measured["jobs"], name).values() for name in names]
    fastest = [min(own, key=statistics.median) for own in modes]
    seconds = [median_and_range(own, ".1f") for own in fastest]
    rows.append(["781 steps and all test images, seconds", *seconds])
    for target, recipes in measured["accuracy"].items():
        own = {name.split(",")[0]: found for name, found in recipes.items()}
        cells = [recipe_cell(own[name], TARGET_COUNTS[target]) for name in names]
        rows.append([f"the recipe for {target} %: seconds, accuracy", *cells])
    title = "rnnmnist with a warm compilation cache, and its peers in their faster mode"
    return f"{table(title, ('', *names), rows)}\n{origin(measured)}"


def differences(measured: dict[str, Any]) -> str:
    """Lists what makes the package faster than the plain loop."""

    def gain(section: str, ours: str, theirs: str) -> str:
        pair = (speeds(measured[section][name]) for name in (ours, theirs))
        return f"{median_and_range(ratios(*pair), '.2f')} times the speed"

    starts = measured["starts"]
    cold, warm = (starts[f"first step, {one} cache"] for one in ("cold", "warm"))
    saved = statistics.median(cold) - statistics.median(warm)
    rows = [
        [
            "up to 100 updates in one call, whose batches the devices gather; one "
            "device for each core",
            gain("throughput", "rnnmnist, Flax's cell", "Flax") + " of training",
        ],
        [
            "the derivative of a time step, written by hand",
            gain("throughput", "rnnmnist", "rnnmnist, Flax's cell") + " of training",
        ],
        [
            "all batches of a split in one call",
            gain("evaluation", "rnnmnist", "Flax, batch 1000") + " of evaluation",
        ],
        ["compiled programs on disk", f"the first step {saved:.1f} s earlier"],
    ]
    found = page_tables.table(("what differs", "what it buys"), rows)
    return f"{found}\n{origin(measured)}"


def recipe_cell(runs: Sequence[dict[str, Any]], count: int) -> str:
    """Formats the seconds and the mean accuracy of runs that follow a recipe."""
    correct = statistics.mean(run["correct"] for run in runs)
    accuracy = percent(correct, count, ".2f")
    return f"{median_and_range(seconds_of(runs), '.1f')}, {accuracy}"


def percent(correct: float, count: int, spec: str) -> str:
    """Formats an accuracy, and whether it misses a target count of 10,000."""
    return f"{correct / 100:{spec}} %{'' if correct >= count else ' (missed)'}"


def seconds_of(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Returns the seconds of runs that follow a recipe."""
    return [run["seconds"] for run in runs]


def modes_of(section: Mapping[str, Any], framework: str) -> dict[str, Any]:
    """Returns the measurements of a framework, by mode."""
    return {
        name: value
        for name, value in section.items()
        if name.split(",")[0] == framework
    }


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table below its title."""
    return f"**{title}**\n\n{page_tables.table(header, rows)}"


def median_and_range(values: Sequence[float], spec: str) -> str:
    """Formats the median, the minimum and the maximum: `2.0 (1.0 to 3.0)`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{spec}} ({low:{spec}} to {high:{spec}})"


def speeds(rounds: Rounds) -> list[float]:
    """Returns the amount of work per second of each round."""
    return [one["amount"] / one["seconds"] for one in rounds]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divides round by round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def fastest_mode(section: Mapping[str, Rounds], framework: str) -> str:
    """Returns the name of a framework's mode with the highest median speed."""
    modes = modes_of(section, framework)
    return max(modes, key=lambda name: statistics.median(speeds(modes[name])))


def ceiling(measured: dict[str, Any]) -> list[float]:
    """Returns the images per second if training were only the fastest product."""
    section = measured["throughput"]
    fastest = fastest_mode(section, "product")
    return [speed / FLOP_PER_IMAGE for speed in speeds(section[fastest])]


def throughput(measured: dict[str, Any]) -> str:
    """Compares training with the peers and with the ceiling."""
    section, rows = measured["throughput"], []
    ours, top = speeds(section["rnnmnist"]), ceiling(measured)
    for name, rounds in section.items():
        found = speeds(rounds)
        if name.startswith("product"):
            gigaflops = statistics.median(found) / 1e9
            name = f"1024³ {name}: {gigaflops:.0f} GFLOP/s"
            found = [speed / FLOP_PER_IMAGE for speed in found]
        percents = [100 * ratio for ratio in ratios(found, top)]
        rows.append(
            [
                name,
                median_and_range(found, ",.0f"),
                median_and_range(ratios(ours, found), ".2f"),
                median_and_range(percents, ".0f"),
            ]
        )
    header = ("training, batch 128", "images/s", "rnnmnist / this", "% of the ceiling")
    return table("Training", header, rows)


def evaluation(measured: dict[str, Any]) -> str:
    """Compares evaluation with the peers."""
    section, rows = measured["evaluation"], []
    ours = speeds(section["rnnmnist"])
    for name, rounds in section.items():
        found = speeds(rounds)
        ratio = median_and_range(ratios(ours, found), ".2f")
        rows.append([name, median_and_range(found, ",.0f"), ratio])
    return table("Evaluation", ("10,000 images", "images/s", "rnnmnist / this"), rows)


def jobs(measured: dict[str, Any]) -> str:
    """Compares whole processes."""
    section, rows = measured["jobs"], []
    warm = section["rnnmnist, warm cache"]
    for name, seconds in section.items():
        ratio = median_and_range(ratios(seconds, warm[: len(seconds)]), ".2f")
        rows.append([name, median_and_range(seconds, ".1f"), ratio])
    header = ("process start to end of evaluation", "seconds", "this / rnnmnist, warm")
    return table("The tutorial's 781 steps and all 10,000 test images", header, rows)


def accuracy(measured: dict[str, Any]) -> str:
    """Compares runs that follow a recipe for a target accuracy."""
    rows = []
    for target, recipes in measured["accuracy"].items():
        ours = seconds_of(recipes["rnnmnist, warm cache"])
        for name, runs in recipes.items():
            correct = [run["correct"] for run in runs]
            seconds = seconds_of(runs)
            rows.append(
                [
                    *(f"{target} %", name, str(runs[0]["epochs"])),
                    median_and_range(seconds, ".1f"),
                    median_and_range(ratios(seconds, ours), ".2f"),
                    percent(statistics.mean(correct), TARGET_COUNTS[target], ".3f"),
                    ", ".join(f"{one:,}" for one in correct),
                ]
            )
    header = (
        *("target", "framework", "epochs", "seconds", "this / rnnmnist, warm"),
        *("mean accuracy", "correct, by seed"),
    )
    return table("Time to accuracy, on all test images", header, rows)


def seeds(measured: dict[str, Any]) -> str:
    """Compares ensembles of several sizes."""
    section, rows = measured["seeds"], []
    one = speeds(section["1"])
    for name, rounds in section.items():
        found = speeds(rounds)
        ratio = median_and_range(ratios(found, one), ".2f")
        rows.append([name, median_and_range(found, ",.0f"), ratio])
    header = ("seeds in one program", "images/s, all seeds", "relative to one seed")
    return table("Seeds", header, rows)


def batches(measured: dict[str, Any]) -> str:
    """Compares batch sizes."""
    section, rows = measured["batches"], []
    for name in section:
        framework, size = name.split()
        if framework == "rnnmnist":
            ours, theirs = speeds(section[name]), speeds(section[f"PyTorch {size}"])
            both = [median_and_range(found, ",.0f") for found in (ours, theirs)]
            rows.append([size, *both, median_and_range(ratios(ours, theirs), ".2f")])
    header = ("batch", "rnnmnist, images/s", "PyTorch, images/s", "ratio")
    return table("Batch", header, rows)


def starts(measured: dict[str, Any]) -> str:
    """Lists the seconds of starts and of the default run."""
    rows = [
        [name, median_and_range(values, ".2f")]
        for name, values in measured["starts"].items()
    ]
    rows += [
        [
            f"the default run, data prepared, {cores}",
            f"{run['seconds']:.1f} ({run['processor_seconds']:.1f} of processors)",
        ]
        for cores, run in measured["default_run"].items()
    ]
    return table("Whole processes", ("measurement", "seconds"), rows)


def at_the_ceiling(measured: dict[str, Any]) -> str:
    """States the speed at the ceiling relative to PyTorch."""
    top = statistics.median(ceiling(measured))
    parts = []
    for work, section, limit in (
        ("training", "throughput", top),
        ("evaluation", "evaluation", 3 * top),
    ):
        peer = fastest_mode(measured[section], "PyTorch")
        ratio = limit / statistics.median(speeds(measured[section][peer]))
        parts.append(f"{ratio:.2f} times {peer} in {work}")
    return (
        "The speed at the ceiling, with matrix products only, would be "
        f"{' and '.join(parts)}, which is a third of the work.\n"
    )


def origin(measured: dict[str, Any]) -> str:
    """States hardware, versions, code and command of the measurements."""
    versions = join_versions(measured["versions"])
    return (
        f"On {measured['hardware']}; {versions}; torch {measured['torch']}. Medians "
        "over rounds, with minimum and maximum, from one run on "
        f"{measured['date']} with the code of commit {measured['commit']}: "
        f"`{measured['command']}`.\n"
    )
