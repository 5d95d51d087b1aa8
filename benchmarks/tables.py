"""Tables from the benchmark's numbers."""

import statistics
from collections.abc import Sequence
from typing import Any

FLOP_PER_IMAGE = 3 * 2 * 28 * (28 + 128) * 4 * 128  # forward, and twice backward
BATCH = 128
MARKS = {"98.5": 9850, "99.0": 9900}  # right answers of 10,000, in the mean
PEERS = ("PyTorch", "PyTorch, compiled", "Keras", "Keras, jit_compile")
Turns = Sequence[dict[str, float]]


def rendered(page: str, document: dict[str, Any]) -> str:
    """The benchmark's page with all tables between its markers."""
    parts = [
        targets(document),
        at_the_ceiling(document),
        throughput(document),
        evaluation(document),
        jobs(document),
        accuracy(document),
        seeds(document),
        batches(document),
        lengths(document),
        starts(document),
        origin(document),
    ]
    return inserted(page, "tables", parts)


def summarized(page: str, document: dict[str, Any]) -> str:
    """The page of results with a few of the numbers between its markers."""
    return inserted(page, "speed", [summary(document), origin(document)])


def inserted(page: str, name: str, parts: Sequence[str]) -> str:
    """A page with other text between the markers of a name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    return before + begin + "\n\n".join(parts) + "\n" + end + rest.split(end, 1)[1]


def summary(document: dict[str, Any]) -> str:
    """Ours beside the better mode of each peer."""
    names = ("rnnmnist", "PyTorch", "Keras")
    rows = [
        (what, *(form(of_framework(document[section], name)) for name in names))
        for what, section, form in (
            ("training, batch 128, images/s", "throughput", fastest),
            ("evaluation, images/s", "evaluation", fastest),
            ("781 steps and all test images, seconds", "jobs", shortest),
        )
    ]
    for mark, count in MARKS.items():
        cells = [f"{our_seconds(document, mark):.0f}"]
        for name in names[1:]:
            (runs,) = of_framework(document["accuracy"], name).values()
            seconds = passing(runs, count)
            cap = f"> {document['accuracy']['cap']:.0f}"
            cells.append(cap if seconds is None else f"{seconds:.0f}")
        rows.append((f"seconds to {mark} % of all test images", *cells))
    return table(
        "rnnmnist, PyTorch and Keras, each in its faster mode", ("", *names), rows
    )


def of_framework(section: dict[str, Any], name: str) -> dict[str, Any]:
    """Its modes."""
    return {key: value for key, value in section.items() if key.split(",")[0] == name}


def fastest(modes: dict[str, Turns]) -> str:
    """The median speed of the fastest mode."""
    return f"{max(statistics.median(speeds(turns)) for turns in modes.values()):,.0f}"


def shortest(modes: dict[str, Sequence[float]]) -> str:
    """The median seconds of the fastest mode."""
    return f"{min(map(statistics.median, modes.values())):.0f}"


def our_seconds(document: dict[str, Any], mark: str) -> float:
    """The median seconds of our recipe for a mark."""
    runs = document["accuracy"][f"rnnmnist {mark}"]
    return statistics.median(run["seconds"] for run in runs)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, below its title."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(row)} |" for row in lines)])


def spread(values: Sequence[float], form: str) -> str:
    """The median, and from where to where."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def speeds(turns: Turns) -> list[float]:
    """What each turn did in a second."""
    return [turn["amount"] / turn["seconds"] for turn in turns]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as much, round by round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def best(section: dict[str, Any], names: Sequence[str]) -> str:
    """The one of these that is fastest in the median."""
    there = [name for name in names if section.get(name)]
    return max(there, key=lambda name: statistics.median(speeds(section[name])))


def ceiling(document: dict[str, Any]) -> list[float]:
    """Images a second, if all work were the machine's best matrix product."""
    section = document["throughput"]
    name = best(section, [name for name in section if name.startswith("product")])
    return [speed / FLOP_PER_IMAGE for speed in speeds(section[name])]


def throughput(document: dict[str, Any]) -> str:
    """Training, beside the peers and under the ceiling."""
    section, rows = document["throughput"], []
    ours, top = speeds(section["rnnmnist"]), ceiling(document)
    for name, turns in section.items():
        found = speeds(turns)
        if name.startswith("product"):
            found = [speed / FLOP_PER_IMAGE for speed in found]
            gigaflops = statistics.median(speeds(turns)) / 1e9
            name = f"1024³ {name}: {gigaflops:.0f} GFLOP/s"
        rows.append(
            (
                name,
                spread(found, ",.0f"),
                spread(ratios(ours, found), ".2f"),
                spread([100 * share for share in ratios(found, top)], ".0f"),
            )
        )
    head = (
        "training, batch 128",
        "images/s",
        "ours is so many times",
        "% of the ceiling",
    )
    return table("Training", head, rows)


def evaluation(document: dict[str, Any]) -> str:
    """Scoring, beside the peers."""
    section = document["evaluation"]
    ours = speeds(section["rnnmnist"])
    rows = [
        (
            name,
            spread(speeds(turns), ",.0f"),
            spread(ratios(ours, speeds(turns)), ".2f"),
        )
        for name, turns in section.items()
    ]
    return table(
        "Evaluation", ("10,000 images", "images/s", "ours is so many times"), rows
    )


def jobs(document: dict[str, Any]) -> str:
    """Whole processes."""
    section = document["jobs"]
    warm = section["rnnmnist, warm cache"]
    rows = [
        (
            name,
            spread(seconds, ".1f"),
            spread(ratios(seconds, warm[: len(seconds)]), ".2f"),
        )
        for name, seconds in section.items()
    ]
    head = ("process start to finished evaluation", "seconds", "times ours, warm")
    return table("The tutorial's 781 steps and all 10,000 test images", head, rows)


def passing(peer: Sequence[Sequence[dict[str, Any]]], mark: int) -> float | None:
    """A peer's median seconds at the first epoch whose mean passes."""
    for epoch in zip(*peer, strict=False):  # as many as all seeds have
        if statistics.mean(run["correct"] for run in epoch) >= mark:
            return statistics.median(run["seconds"] for run in epoch)
    return None


def accuracy(document: dict[str, Any]) -> str:
    """Seconds to an accuracy."""
    section, rows = document["accuracy"], []
    cap = section["cap"]
    for mark, count in MARKS.items():
        runs = section[f"rnnmnist {mark}"]
        correct = [run["correct"] for run in runs]
        mean = statistics.mean(correct) / 100
        rows.append(
            (
                f"{mark} %, rnnmnist",
                spread([run["seconds"] for run in runs], ".1f"),
                f"{mean:.2f} %: {', '.join(f'{n:,}' for n in correct)}",
            )
        )
        for name in PEERS:
            if name not in section:
                continue
            seconds = passing(section[name], count)
            epochs = min(map(len, section[name]))
            last = [run[epochs - 1]["correct"] for run in section[name] if epochs]
            reached = f"{statistics.mean(last) / 100:.2f} %" if last else "nothing"
            rows.append(
                (
                    f"{mark} %, {name}",
                    f"> {cap:.0f}" if seconds is None else f"{seconds:.1f}",
                    f"{reached} after {epochs} epochs",
                )
            )
    head = ("mean of all test images", "seconds", "accuracy reached")
    return table("Time to accuracy", head, rows)


def seeds(document: dict[str, Any]) -> str:
    """Stacks of networks."""
    section = document["seeds"]
    one = speeds(section["1"])
    rows = [
        (name, spread(speeds(turns), ",.0f"), spread(ratios(speeds(turns), one), ".2f"))
        for name, turns in section.items()
    ]
    head = ("seeds in one program", "images/s, of all", "times one seed")
    return table("Seeds", head, rows)


def batches(document: dict[str, Any]) -> str:
    """Batch sizes."""
    section = document["batches"]
    rows = []
    for name, turns in section.items():
        if name.startswith("rnnmnist"):
            size = name.split()[1]
            peer = speeds(section[f"PyTorch {size}"])
            ours = speeds(turns)
            rows.append(
                (
                    size,
                    spread(ours, ",.0f"),
                    spread(peer, ",.0f"),
                    spread(ratios(ours, peer), ".2f"),
                )
            )
    head = ("batch", "rnnmnist, images/s", "PyTorch, images/s", "ratio")
    return table("Batch", head, rows)


def milliseconds(turns: Turns) -> list[float]:
    """Of a step."""
    return [1000 * BATCH * turn["seconds"] / turn["amount"] for turn in turns]


def lengths(document: dict[str, Any]) -> str:
    """Sequence lengths: time and memory."""
    section, rows = document["lengths"], []
    for name, turns in section.items():
        if not name.startswith("rnnmnist"):
            continue
        length = name.split()[1]
        columns = [length]
        for who in ("rnnmnist", "in blocks", "PyTorch"):
            own = section[f"{who} {length}"]
            time = statistics.median(milliseconds(own))
            columns.append(f"{time:,.1f} ms, {own[-1]['peak_mib']:,.0f} MiB")
        remat = milliseconds(section[f"in blocks {length}"])
        columns.append(spread(ratios(remat, milliseconds(turns)), ".2f"))
        row_time = 1000 * statistics.median(milliseconds(turns)) / int(length)
        columns.append(f"{row_time:,.0f}")
        rows.append(columns)
    head = (
        *("rows", "rnnmnist", "in blocks of 28 rows", "PyTorch"),
        *("blocks / whole, time", "µs a row"),
    )
    title = "Sequence length: a step of 128, and the process's peak memory"
    return table(title, head, rows)


def starts(document: dict[str, Any]) -> str:
    """Starts, checkpoints and the default run, in seconds."""
    saving = document["checkpoints"]
    pairs = zip(saving["with"], saving["without"], strict=True)
    saves = [
        (one["seconds"] - other["seconds"]) / one["amount"] for one, other in pairs
    ]
    rows = [
        *((name, spread(values, ".2f")) for name, values in document["starts"].items()),
        ("a checkpoint, beside an epoch", spread(saves, ".2f")),
        ("the default run, data prepared", f"{document['memory']['seconds']:.1f}"),
    ]
    return table("Starts and checkpoints", ("what", "seconds"), rows)


# What, how to write it, the value, on which side of the limit it should be.
Row = tuple[str, str, float, str, float]


def targets(document: dict[str, Any]) -> str:
    """Each target, what was measured, and whether it was met."""
    rows = []
    for what, form, value, side, limit in [
        *speed_targets(document),
        *accuracy_targets(document),
        *start_targets(document),
        *shape_targets(document),
    ]:
        met = value >= limit if side == "≥" else value <= limit
        rows.append(
            (what, f"{side} {limit:g}", format(value, form), "yes" if met else "**no**")
        )
    return table("Targets", ("what", "target", "measured", "met"), rows)


def at_the_ceiling(document: dict[str, Any]) -> str:
    """How far ahead of its peers anything could be, with nothing but products."""
    training, scoring = document["throughput"], document["evaluation"]
    top, words = statistics.median(ceiling(document)), []
    for work, section, names, most in (
        ("training", training, PEERS[:2], top),
        ("training", training, PEERS[2:], top),
        ("evaluation", scoring, of_framework(scoring, "PyTorch"), 3 * top),
    ):
        peer = best(section, list(names))
        ratio = most / statistics.median(speeds(section[peer]))
        words.append(f"{ratio:.2f} times {peer} in {work}")
    return (
        f"At the ceiling, with nothing to do but products, one would be {words[0]}, "
        f"{words[1]}, and {words[2]}, which is a third of the work."
    )


def speed_targets(document: dict[str, Any]) -> list[Row]:
    """Training and evaluation, against the peers and the ceiling."""
    training, scoring = document["throughput"], document["evaluation"]
    ours, scores = speeds(training["rnnmnist"]), speeds(scoring["rnnmnist"])
    rows: list[Row] = []
    for peers, limit in ((PEERS[:2], 1.2), (PEERS[2:], 2)):
        peer = best(training, peers)
        ratio = statistics.median(ratios(ours, speeds(training[peer])))
        rows.append((f"training / {peer}", ".2f", ratio, "≥", limit))
    share = 100 * statistics.median(ratios(ours, ceiling(document)))
    rows.append(("training, % of the ceiling", ".0f", share, "≥", 65))
    peer = best(scoring, list(of_framework(scoring, "PyTorch")))
    ratio = statistics.median(ratios(scores, speeds(scoring[peer])))
    rows.append((f"evaluation / {peer}", ".2f", ratio, "≥", 1.5))
    return rows


def accuracy_targets(document: dict[str, Any]) -> list[Row]:
    """Seconds to an accuracy, of ours and of the better peer."""
    section, rows = document["accuracy"], []
    for mark, limit in (("98.5", 30), ("99.0", 75)):
        runs = section[f"rnnmnist {mark}"]
        seconds = our_seconds(document, mark)
        mean = statistics.mean(run["correct"] for run in runs) / 100
        peers = [
            passing(section[name], MARKS[mark]) or section["cap"]
            for name in PEERS
            if name in section
        ]
        rows += [
            (f"mean accuracy of that recipe, {mark} %", ".2f", mean, "≥", float(mark)),
            (f"seconds to {mark} %", ".1f", seconds, "≤", limit),
            (
                f"the better peer's seconds (at least) / ours, {mark} %",
                ".1f",
                min(peers) / seconds,
                "≥",
                3,
            ),
        ]
    return rows


def start_targets(document: dict[str, Any]) -> list[Row]:
    """What a start, a checkpoint and the memory cost."""
    section, saving = document["starts"], document["checkpoints"]
    rows: list[Row] = [
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
    peak = document["memory"]["peak_mib"] * 2**20 / 1e6
    return [
        *rows,
        ("a checkpoint each epoch, % more", ".1f", statistics.median(cost), "≤", 2),
        ("peak memory of the default run, MB", ".0f", peak, "≤", 1000),
    ]


def shape_targets(document: dict[str, Any]) -> list[Row]:
    """Sequence lengths and seeds."""
    length, job, many = (document[name] for name in ("lengths", "jobs", "seeds"))
    short, long = (
        statistics.median(milliseconds(length[f"rnnmnist {rows}"])) / rows
        for rows in (28, 784)
    )
    remat = ratios(
        milliseconds(length["in blocks 784"]), milliseconds(length["rnnmnist 784"])
    )
    together = job["8 seeds, cold cache"]
    separate = [8 * seconds for seconds in job["rnnmnist, warm cache"]]
    seconds = statistics.median(ratios(together, separate[: len(together)]))
    speed = statistics.median(ratios(speeds(many["8"]), speeds(many["1"])))
    return [
        ("a row of 784 / a row of 28, time", ".2f", long / short, "≤", 1.2),
        ("784 rows, blocks / whole, time", ".2f", statistics.median(remat), "≤", 1.35),
        ("8 seeds in one program / 8 runs, time", ".2f", seconds, "≤", 0.9),
        ("8 seeds / one seed, images/s", ".2f", speed, "≥", 1),
    ]


def origin(document: dict[str, Any]) -> str:
    """Where the numbers come from."""
    versions, peers = (
        ", ".join(f"{name} {text}" for name, text in document[which].items())
        for which in ("versions", "peers")
    )
    rounds = len(next(iter(document["throughput"].values())))
    return (
        f"On {document['hardware']}; {versions}; peers: {peers}. Medians of rounds in "
        f"turn ({rounds} for training), with the smallest and the largest, from one "
        f"run of {document['minutes']} minutes: `{document['command']}`."
    )
