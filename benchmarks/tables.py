"""Renders the tables of the benchmark."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rnnmnist.reporting import markdown
from rnnmnist.reporting.markdown import median_and_range
from rnnmnist.runtime.versions import join_versions

FLOP_PER_IMAGE = 3 * 2 * 28 * (28 + 128) * 4 * 128  # once forward, twice backward
BATCH = 128
# Correct predictions of 10,000, in the mean over seeds, by target accuracy.
TARGET_COUNTS = {"98.5": 9850, "99.0": 9900}
PYTORCH = ("PyTorch", "PyTorch, compiled")
KERAS = ("Keras", "Keras, jit_compile")
Rounds = Sequence[dict[str, float]]


def render(page: str, measured: dict[str, Any]) -> str:
    """Returns benchmarks/README.md with its tables rendered anew."""
    parts = [
        targets(measured),
        at_the_ceiling(measured),
        throughput(measured),
        evaluation(measured),
        jobs(measured),
        accuracy(measured),
        seeds(measured),
        batches(measured),
        lengths(measured),
        starts(measured),
        origin(measured),
    ]
    return markdown.fill(page, "tables", "\n".join(parts))


def render_summary(page: str, measured: dict[str, Any]) -> str:
    """Returns docs/performance.md with its summary rendered anew."""
    return markdown.fill(page, "speed", f"{summary(measured)}\n{origin(measured)}")


def summary(measured: dict[str, Any]) -> str:
    """Compares rnnmnist with the faster mode of each peer."""
    names = ("rnnmnist", "PyTorch", "Keras")
    rows = []
    for title, section in (
        ("training, batch 128, images/s", "throughput"),
        ("evaluation, images/s", "evaluation"),
    ):
        modes = [modes_of(measured[section], name).values() for name in names]
        medians = [max(statistics.median(speeds(one)) for one in own) for own in modes]
        rows.append([title, *(f"{median:,.0f}" for median in medians)])
    modes = [modes_of(measured["jobs"], name).values() for name in names]
    seconds = [f"{min(map(statistics.median, own)):.0f}" for own in modes]
    rows.append(["781 steps and all test images, seconds", *seconds])
    for target, count in TARGET_COUNTS.items():
        cells = [f"{recipe_seconds(measured, target):.0f}"]
        for name in names[1:]:
            (runs,) = modes_of(measured["accuracy"], name).values()
            cap = f"> {measured['accuracy']['cap']:.0f}"
            reached = seconds_to(runs, count)
            cells.append(cap if reached is None else f"{reached:.0f}")
        rows.append([f"seconds to {target} % of all test images", *cells])
    title = "rnnmnist, PyTorch and Keras, each in its faster mode"
    return table(title, ("", *names), rows)


def modes_of(section: Mapping[str, Any], framework: str) -> dict[str, Any]:
    """Returns the measurements of a framework, by mode."""
    return {
        name: value
        for name, value in section.items()
        if name.split(",")[0] == framework
    }


def recipe_seconds(measured: dict[str, Any], target: str) -> float:
    """Returns the median seconds of our recipe for a target accuracy."""
    runs = measured["accuracy"][f"rnnmnist {target}"]
    return statistics.median(run["seconds"] for run in runs)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table below its title."""
    return f"**{title}**\n\n{markdown.table(header, rows)}"


def speeds(rounds: Rounds) -> list[float]:
    """Returns the amount of work per second of each round."""
    return [one["amount"] / one["seconds"] for one in rounds]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divides round by round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median of the ratios."""
    return statistics.median(ratios(ours, theirs))


def fastest_mode(section: Mapping[str, Rounds], names: Sequence[str]) -> str:
    """Returns the name with the highest median speed, of those that were measured."""
    found = [name for name in names if section.get(name)]
    return max(found, key=lambda name: statistics.median(speeds(section[name])))


def ceiling(measured: dict[str, Any]) -> list[float]:
    """Returns the images per second if training were only the fastest product."""
    section = measured["throughput"]
    products = [name for name in section if name.startswith("product")]
    fastest = fastest_mode(section, products)
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


def seconds_to(runs: Sequence[Sequence[dict[str, Any]]], count: int) -> float | None:
    """Returns a peer's median seconds at the first epoch whose mean reaches a count.

    Args:
        runs: the epochs of each seed; only epochs that all seeds have are considered.
        count: the number of correct predictions.
    """
    for epoch in zip(*runs, strict=False):
        if statistics.mean(run["correct"] for run in epoch) >= count:
            return statistics.median(run["seconds"] for run in epoch)
    return None


def accuracy(measured: dict[str, Any]) -> str:
    """Compares the time to a target accuracy."""
    section, rows = measured["accuracy"], []
    for target, count in TARGET_COUNTS.items():
        runs = section[f"rnnmnist {target}"]
        correct = [run["correct"] for run in runs]
        counts = ", ".join(f"{number:,}" for number in correct)
        rows.append(
            [
                f"{target} %, rnnmnist",
                median_and_range([run["seconds"] for run in runs], ".1f"),
                f"{statistics.mean(correct) / 100:.2f} %: {counts}",
            ]
        )
        for name in (*PYTORCH, *KERAS):
            if name not in section:
                continue
            seconds = seconds_to(section[name], count)
            epochs = min(map(len, section[name]))
            last = [run[epochs - 1]["correct"] for run in section[name] if epochs]
            reached = f"{statistics.mean(last) / 100:.2f} %" if last else "nothing"
            rows.append(
                [
                    f"{target} %, {name}",
                    f"> {section['cap']:.0f}" if seconds is None else f"{seconds:.1f}",
                    f"{reached} after {epochs} epochs",
                ]
            )
    header = ("mean over seeds, all test images", "seconds", "accuracy reached")
    return table("Time to accuracy", header, rows)


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


def milliseconds(rounds: Rounds) -> list[float]:
    """Returns the duration of a training step in each round."""
    return [1000 * BATCH * one["seconds"] / one["amount"] for one in rounds]


def lengths(measured: dict[str, Any]) -> str:
    """Compares sequence lengths: time and memory."""
    section, rows = measured["lengths"], []
    for length in [name.split()[1] for name in section if name.startswith("rnnmnist")]:
        columns = [length]
        for name in ("rnnmnist", "in blocks", "PyTorch"):
            rounds = section[f"{name} {length}"]
            time = statistics.median(milliseconds(rounds))
            columns.append(f"{time:,.1f} ms, {rounds[-1]['peak_mib']:,.0f} MiB")
        times = milliseconds(section[f"rnnmnist {length}"])
        remat = milliseconds(section[f"in blocks {length}"])
        columns.append(median_and_range(ratios(remat, times), ".2f"))
        columns.append(f"{1000 * statistics.median(times) / int(length):,.0f}")
        rows.append(columns)
    header = (
        *("rows", "rnnmnist", "in blocks of 28 rows", "PyTorch"),
        *("blocks / whole, time", "µs per row"),
    )
    title = "Sequence length: a step of 128 images, and the process's peak memory"
    return table(title, header, rows)


def starts(measured: dict[str, Any]) -> str:
    """Lists the seconds of starts, of a checkpoint and of the default run."""
    saving = measured["checkpoints"]
    pairs = zip(saving["with"], saving["without"], strict=True)
    saves = [
        (one["seconds"] - other["seconds"]) / one["amount"] for one, other in pairs
    ]
    rows = [
        [name, median_and_range(values, ".2f")]
        for name, values in measured["starts"].items()
    ]
    rows += [
        ["a checkpoint after an epoch", median_and_range(saves, ".2f")],
        ["the default run, data prepared", f"{measured['memory']['seconds']:.1f}"],
    ]
    return table("Starts and checkpoints", ("measurement", "seconds"), rows)


# Name, format of the value, value, direction and limit of a target.
Target = tuple[str, str, float, str, float]


def targets(measured: dict[str, Any]) -> str:
    """Lists the targets, the measurements, and whether they were met."""
    rows = []
    for name, spec, value, side, limit in [
        *speed_targets(measured),
        *accuracy_targets(measured),
        *start_targets(measured),
        *shape_targets(measured),
    ]:
        met = value >= limit if side == "≥" else value <= limit
        rows.append(
            (name, f"{side} {limit:g}", format(value, spec), "yes" if met else "**no**")
        )
    return table("Targets", ("measurement", "target", "measured", "met"), rows)


def at_the_ceiling(measured: dict[str, Any]) -> str:
    """States the speed at the ceiling relative to the peers."""
    training, scoring = measured["throughput"], measured["evaluation"]
    top, parts = statistics.median(ceiling(measured)), []
    for work, section, names, limit in (
        ("training", training, PYTORCH, top),
        ("training", training, KERAS, top),
        ("evaluation", scoring, tuple(modes_of(scoring, "PyTorch")), 3 * top),
    ):
        peer = fastest_mode(section, names)
        ratio = limit / statistics.median(speeds(section[peer]))
        parts.append(f"{ratio:.2f} times {peer} in {work}")
    return (
        f"The speed at the ceiling, with matrix products only, would be {parts[0]}, "
        f"{parts[1]}, and {parts[2]}, which is a third of the work.\n"
    )


def speed_targets(measured: dict[str, Any]) -> list[Target]:
    """Returns the targets of training and evaluation."""
    training, scoring = measured["throughput"], measured["evaluation"]
    ours = speeds(training["rnnmnist"])
    rows: list[Target] = []
    for modes, limit in ((PYTORCH, 1.2), (KERAS, 2)):
        peer = fastest_mode(training, modes)
        ratio = median_ratio(ours, speeds(training[peer]))
        rows.append((f"training / {peer}", ".2f", ratio, "≥", limit))
    percent = 100 * median_ratio(ours, ceiling(measured))
    rows.append(("training, % of the ceiling", ".0f", percent, "≥", 65))
    peer = fastest_mode(scoring, list(modes_of(scoring, "PyTorch")))
    ratio = median_ratio(speeds(scoring["rnnmnist"]), speeds(scoring[peer]))
    return [*rows, (f"evaluation / {peer}", ".2f", ratio, "≥", 1.5)]


def accuracy_targets(measured: dict[str, Any]) -> list[Target]:
    """Returns the targets of the time to an accuracy, alone and against the peers."""
    section, rows = measured["accuracy"], list[Target]()
    for target, limit in (("98.5", 30), ("99.0", 75)):
        runs = section[f"rnnmnist {target}"]
        seconds = recipe_seconds(measured, target)
        mean = statistics.mean(run["correct"] for run in runs) / 100
        peers = [
            seconds_to(section[name], TARGET_COUNTS[target]) or section["cap"]
            for name in (*PYTORCH, *KERAS)
            if name in section
        ]
        faster = f"the faster peer's seconds (at least) / ours, {target} %"
        rows += [
            (
                f"mean accuracy, {target} % recipe",
                ".2f",
                mean,
                "≥",
                float(target),
            ),
            (f"seconds to {target} %", ".1f", seconds, "≤", limit),
            (faster, ".1f", min(peers) / seconds, "≥", 3),
        ]
    return rows


def start_targets(measured: dict[str, Any]) -> list[Target]:
    """Returns the targets of starts, checkpoints and memory."""
    section, saving = measured["starts"], measured["checkpoints"]
    rows: list[Target] = [
        (f"{name}, s", ".2f", statistics.median(section[name]), "≤", limit)
        for name, limit in (
            ("first step, warm cache", 5),
            ("imports", 2),
            ("--help", 1),
            ("an unknown setting", 1),
            ("compile the chunk, cold cache", 6),
        )
    ]
    pairs = zip(saving["with"], saving["without"], strict=True)
    cost = [100 * (one["seconds"] / other["seconds"] - 1) for one, other in pairs]
    peak = measured["memory"]["peak_mib"] * 2**20 / 1e6
    return [
        *rows,
        ("a checkpoint each epoch, % more", ".1f", statistics.median(cost), "≤", 2),
        ("peak memory of the default run, MB", ".0f", peak, "≤", 1000),
    ]


def shape_targets(measured: dict[str, Any]) -> list[Target]:
    """Returns the targets of sequence lengths and seeds."""
    length, job, many = (measured[name] for name in ("lengths", "jobs", "seeds"))
    times = {rows: milliseconds(length[f"rnnmnist {rows}"]) for rows in (28, 784)}
    short, long = (statistics.median(times[rows]) / rows for rows in (28, 784))
    remat = median_ratio(milliseconds(length["in blocks 784"]), times[784])
    together = job["8 seeds, cold cache"]
    separate = [8 * seconds for seconds in job["rnnmnist, warm cache"]]
    seconds = median_ratio(together, separate[: len(together)])
    speed = median_ratio(speeds(many["8"]), speeds(many["1"]))
    return [
        ("a row of 784 / a row of 28, time", ".2f", long / short, "≤", 1.2),
        ("784 rows, blocks / whole, time", ".2f", remat, "≤", 1.35),
        ("8 seeds in one program / 8 runs, time", ".2f", seconds, "≤", 0.9),
        ("8 seeds / one seed, images/s", ".2f", speed, "≥", 1),
    ]


def origin(measured: dict[str, Any]) -> str:
    """States hardware, versions and command of the measurements."""
    versions, peers = (join_versions(measured[key]) for key in ("versions", "peers"))
    rounds = len(next(iter(measured["throughput"].values())))
    return (
        f"On {measured['hardware']}; {versions}; peers: {peers}. Medians over rounds "
        f"({rounds} for training), with minimum and maximum, from one run of "
        f"{measured['minutes']} minutes: `{measured['command']}`.\n"
    )
