"""Measures configurations over several seeds, and puts the tables into the pages.

    python tools/results.py measure --data=FOLDER
    python tools/results.py measure default best --data=FOLDER
    python tools/results.py table

`FOLDER` holds `mnist/` and `fashion_mnist/`, each with the four original files; without
it TFDS gets them. `measure` trains every seed of the rows that are named (of all, if
none is) with `python -m rnnmnist.main`, each on one core and as many at once as there
are cores, and writes `results/NAME.json`. Runs are kept in `checkpoints/results`, and a
measurement that was stopped goes on. `table` renders what `results/` has between the
markers of README.md and of the pages in `docs/`. Only Linux can pin processes to cores.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import queue
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.main import parse
from rnnmnist.reporting import run_data
from rnnmnist.runtime.hardware import hardware

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "results"
RUNS = REPOSITORY / "checkpoints" / "results"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: a configuration, what is changed in it, and how often it runs.

    `words` are flags without `--config.`, after the configuration's name; `own` are
    those that make it another row than the one above.
    """

    name: str
    seeds: int
    words: str
    says: str = ""  # what the row is, where a table needs words
    own: str = ""

    @property
    def command(self) -> str:
        """What trains one seed, but for where the data lie."""
        config, *changes = self.words.split()
        flags = "".join(f" --config.{change}" for change in changes)
        return f"python -m rnnmnist.main --config={config}{flags} --config.seed=SEED"

    def config(self, seed: int = 0) -> Config:
        """What one seed is trained with, but for where the data lie."""
        words = self.command.replace("SEED", str(seed)).split()[3:]
        config = parse(words).config
        return config.replace(dict.fromkeys(DATA_PATHS))


CONFIGURATIONS = (
    Row("embedded", 3, "embedded"),
    Row("tutorial", 3, "tutorial"),
    Row("default", 5, "default"),
    Row("every_row", 5, "every_row"),
    Row("best", 5, "best"),
    Row("fashion", 3, "fashion"),
)
# What the README shows of them: the name, the data and the recipe in words.
HEADLINE = (
    ("embedded", "5,000 MNIST images, shipped", "48 epochs, shifts of up to 2 pixels"),
    ("tutorial", "MNIST", "the 2016 tutorial, 1.8 epochs"),
    ("default", "MNIST", "10 epochs, no augmentation"),
    ("best", "MNIST", "60 epochs, augmentation"),
    ("fashion", "Fashion-MNIST", "50 epochs, augmentation"),
)
CELLS = (
    Row("rnn", 5, "default model.cell=rnn", "`rnn`, the basic cell"),
    Row("gru", 5, "default model.cell=gru", "`gru`"),
    dataclasses.replace(CONFIGURATIONS[2], says="`lstm`"),
)


def rungs(start: str, *changes: tuple[str, int, str, str]) -> tuple[Row, ...]:
    """Rows of which each has the changes of all before it, and one of its own.

    Args:
        start: the configuration below them.
        changes: of each, its name, seeds, words, and what they mean.
    """
    rows, words = [], start
    for name, seeds, change, says in changes:
        words = f"{words} {change}"
        rows.append(Row(name, seeds, words, says, change))
    return tuple(rows)


ABLATION = (
    dataclasses.replace(CONFIGURATIONS[1], says="the 2016 recipe (`tutorial`)"),
    *rungs(
        "tutorial",
        (
            "ladder_weights",
            3,
            "model.initializer=flax",
            "initializers: orthogonal and LeCun-normal, for the head too",
        ),
        (
            "ladder_schedule",
            3,
            "train.schedule=cosine train.learning_rate=7e-3 train.warmup_fraction=0.02",
            "learning rate: cosine decay from 7e-3 after a warm-up, not constant 1e-3",
        ),
        ("ladder_clipping", 3, "train.clip_norm=1", "gradient clipping at norm 1"),
        ("ladder_decay", 3, "train.weight_decay=0.1", "weight decay 0.1"),
    ),
    dataclasses.replace(
        CONFIGURATIONS[2],
        says="10 epochs, not 1.8, and selection on validation (`default`)",
        own="train.num_steps=4300 train.eval_every_steps=430",
    ),
    *rungs(
        "default",
        (
            "ladder_affine",
            3,
            "data.max_shift=2 data.max_rotation=12 data.max_scale=0.15 "
            "data.max_shear=0.2",
            "random shift, rotation, scale and shear",
        ),
        ("ladder_elastic", 3, "data.elastic=0.8", "elastic distortion"),
        ("ladder_size", 3, "model.hidden_size=176", "176 hidden units, not 128"),
        ("ladder_smoothing", 3, "train.label_smoothing=0.05", "label smoothing 0.05"),
        (
            "ladder_average",
            3,
            "train.ema_decay=0.999",
            "moving average of the weights, 0.999",
        ),
    ),
    dataclasses.replace(
        CONFIGURATIONS[4],
        says="60 epochs, not 10 (`best`)",
        own="train.num_steps=25800 train.eval_every_steps=860",
    ),
)


def alone(name: str, change: str, says: str) -> Row:
    """The default run with one change."""
    return Row(name, 3, f"default {change}", says, change)


ALONE = (
    dataclasses.replace(CONFIGURATIONS[2], says="none (`default`)"),
    alone("alone_smoothing", "train.label_smoothing=0.05", "label smoothing"),
    alone("alone_average", "train.ema_decay=0.998", "moving average of the weights"),
    dataclasses.replace(
        CONFIGURATIONS[3],
        says="a loss after every row (`every_row`)",
        own="train.loss=every_row",
    ),
)
ROWS = tuple(
    {row.name: row for row in (*CONFIGURATIONS, *CELLS, *ABLATION, *ALONE)}.values()
)


def measure(rows: list[Row], data: Path | None) -> None:
    """Trains every seed of some rows, and writes the file of each that is complete."""
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def train(row: Row, seed: int) -> dict[str, Any]:
        core = cores.get()
        try:
            return train_once(row, seed, core, data)
        finally:
            cores.put(core)

    pool = ThreadPoolExecutor(cores.qsize())
    trained = {
        row: [pool.submit(train, row, seed) for seed in range(row.seeds)]
        for row in rows
    }
    try:
        for row, members in trained.items():
            result = summed_up(row, [member.result() for member in members])
            path = RESULTS / f"{row.name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{path.name}: {percent(result)}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # after a failure, no more begin


def train_once(row: Row, seed: int, core: int, data: Path | None) -> dict[str, Any]:
    """Trains one seed on one core, if that was not done before.

    Returns:
        The evaluation of its best checkpoint, with the processor's `seconds`, and what
        was right after each row.
    """
    workdir = RUNS / f"{row.name}-{seed}"
    done = workdir / "member.json"
    if done.exists() and trained_with(workdir) == row.config(seed):
        return json.loads(done.read_text())
    # A run that was cut off begins anew: its seconds are to be a whole process's.
    shutil.rmtree(workdir, ignore_errors=True)
    command = row.command.replace("SEED", str(seed)).split()[1:]
    flags = [f"--workdir={workdir}"]
    dataset = row.config().data.name
    if data is not None and dataset != "mnist5k":
        flags.append(f"--config.data.manual_dir={data / dataset}")
    process = subprocess.Popen([sys.executable, *command, *flags], cwd=REPOSITORY)
    os.sched_setaffinity(process.pid, {core})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{row.name}, seed {seed}: exit code {process.returncode}")
    (path,) = (workdir / "evaluation").glob("test-*.json")
    member = json.loads(path.read_text())
    member["seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    member |= early_answers(workdir)
    done.write_text(json.dumps(member))
    return member


def trained_with(workdir: Path) -> Config:
    """A run's configuration, but for where the data lie."""
    config = Config.from_dict(json.loads((workdir / "config.json").read_text()))
    return config.replace(dict.fromkeys(DATA_PATHS))


def early_answers(workdir: Path) -> dict[str, Any]:
    """What a run's network has right on validation, and of test images by row."""
    found = run_data.load_run_data(workdir, "best", {})
    (answers,) = found.networks
    if found.validation is None:
        raise RuntimeError(f"{workdir} has no validation metrics")
    return {
        "validation_correct": found.validation["correct"],
        "correct_after_rows": answers.correct_after_rows.tolist(),
        "decision_row": float(np.median(answers.decision_rows)),
    }


def summed_up(row: Row, members: list[dict[str, Any]]) -> dict[str, Any]:
    """What `results/NAME.json` holds: counts are sums over the members.

    `seconds` is the median over them, of a whole process's on one core.
    """
    accuracies = [member["accuracy"] for member in members]
    confusions = np.sum([member["confusion"] for member in members], axis=0)
    processor = hardware().partition(" of ")[2]
    return {
        "name": row.name,
        "command": row.command,
        "hardware": f"one core of {processor}",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "seconds": statistics.median(member["seconds"] for member in members),
        "dataset": members[0]["dataset"],
        "split": "test",
        "examples": members[0]["examples"],
        "num_parameters": members[0]["num_parameters"],
        "correct": sum(member["correct"] for member in members),
        "confusion": confusions.tolist(),
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies),
        "config": row.config().to_dict(),
        "members": members,
    }


def read(name: str) -> dict[str, Any]:
    """A row's file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def percent(result: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds."""
    mean, std = 100 * result["accuracy_mean"], 100 * result["accuracy_std"]
    return f"{mean:.2f} ± {std:.2f} %"


def markdown(head: str, rows: list[list[str]]) -> str:
    """A table, from its column names, separated by `|`, and its rows."""
    lines = [head, " | ".join("---" for _ in head.split("|")), *map(" | ".join, rows)]
    return "".join(f"| {line} |\n" for line in lines)


def measured_on(rows: tuple[Row, ...]) -> str:
    """Where some rows were measured, in a sentence."""
    results = [read(row.name) for row in rows]
    places = sorted({result["hardware"] for result in results})
    versions = {
        ", ".join(map(" ".join, result["versions"].items())) for result in results
    }
    return f"On {'; '.join(places)}; {'; '.join(sorted(versions))}.\n"


def headline() -> str:
    """The README's table: one row for each of the configurations that matter most."""
    rows = []
    for name, data, recipe in HEADLINE:
        result = read(name)
        row = [f"`{name}`", data, recipe, f"{result['num_parameters']:,}"]
        numbers = [percent(result), f"{result['examples']:,}"]
        seeds, seconds = len(result["members"]), f"{result['seconds']:.0f}"
        rows.append([*row, *numbers, f"{seeds}", seconds])
    head = (
        "configuration | data | recipe | parameters | test accuracy, mean ± std | "
        "test images | seeds | seconds"
    )
    return markdown(head, rows)


def configurations() -> str:
    """The table of the shipped configurations."""
    rows = []
    for result in (read(row.name) for row in CONFIGURATIONS):
        members, name = result["members"], f"`{result['name']}`"
        counts = ", ".join(f"{member['correct']:,}" for member in members)
        steps = ", ".join(str(member["step"]) for member in members)
        parameters, seconds = result["num_parameters"], result["seconds"]
        correct = f"{counts} of {result['examples']:,}"
        row = [name, result["dataset"], f"{parameters:,}", percent(result), correct]
        rows.append([*row, steps, f"{seconds:.0f}"])
        if "tutorial_128" in members[0]:
            firsts = [str(member["tutorial_128"]["correct"]) for member in members]
            counts = f"{', '.join(firsts)} of 128"
            rows.append([f"{name}, first 128 images", "", "", "", counts, "", ""])
    head = (
        "configuration | data set | parameters | test accuracy, mean ± std | "
        "correct, by seed | best step, by seed | seconds"
    )
    return f"{markdown(head, rows)}\n{measured_on(CONFIGURATIONS)}"


def changes(rows: tuple[Row, ...]) -> str:
    """A table of rows that are told by what they change."""
    lines = []
    for row in rows:
        result = read(row.name)
        members = result["members"]
        held_out = statistics.mean(m["validation_correct"] for m in members) / 50
        counts = ", ".join(f"{member['correct']:,}" for member in members)
        numbers = [f"{held_out:.2f} %", percent(result), counts]
        own = ", ".join(f"`{word}`" for word in row.own.split())
        lines.append(
            [row.says, own, f"`{row.name}`", *numbers, f"{result['seconds']:.0f}"]
        )
    head = (
        "change | settings | result file | validation, mean | test, mean ± std | "
        "correct of 10,000, by seed | seconds"
    )
    return f"{markdown(head, lines)}\n{measured_on(rows)}"


def cells() -> str:
    """The table of the three cells under the default recipe."""
    lines = []
    for row in CELLS:
        result = read(row.name)
        counts = ", ".join(f"{member['correct']:,}" for member in result["members"])
        size, seconds = f"{result['num_parameters']:,}", f"{result['seconds']:.0f}"
        lines.append(
            [row.says, f"`{row.name}`", size, percent(result), counts, seconds]
        )
    head = (
        "cell | result file | parameters | test accuracy, mean ± std | "
        "correct of 10,000, by seed | seconds"
    )
    return f"{markdown(head, lines)}\n{measured_on(CELLS)}"


def films() -> str:
    """The table of what the two losses make of the rows' answers."""
    after = (4, 8, 10, 12, 14, 16, 18, 20, 24, 28)
    rows = []
    for name, loss in (("default", "last"), ("every_row", "every_row")):
        result = read(name)
        members = result["members"]
        counts = np.array([member["correct_after_rows"] for member in members])
        shares = 100 * counts.mean(0) / result["examples"]
        decided = statistics.mean(member["decision_row"] for member in members)
        early = [f"{shares[k - 1]:.1f}" for k in after]
        rows.append([f"`{loss}`", percent(result), *early, f"{decided:.1f}"])
    head = "`train.loss` | test accuracy, mean ± std | "
    head += " | ".join(f"row {k}" for k in after) + " | decided, median"
    return markdown(head, rows)


# The tables of each page, by the name of their markers.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"results": headline},
    "docs/results.md": {
        "results": configurations,
        "ablation": functools.partial(changes, ABLATION),
        "alone": functools.partial(changes, ALONE),
    },
    "docs/film.md": {"films": films},
    "docs/tutorial.md": {
        "cells": cells,
        "ablation": functools.partial(changes, ABLATION),
    },
}


def rendered(page: str) -> str:
    """A page's text with the tables between its markers."""
    text = (REPOSITORY / page).read_text()
    for name, table in PAGES[page].items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = before + begin + table() + end + rest.split(end, 1)[1]
    return text


def main() -> None:
    """Parses the command line."""
    rows = {row.name: row for row in ROWS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("names", nargs="*", metavar="NAME", help=", ".join(rows))
    measuring.add_argument("--data", type=lambda text: Path(text).absolute())
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "measure":
        for name in options.names:
            if name not in rows:
                parser.error(f"NAME: must be one of {', '.join(rows)}, not {name}")
        measure([rows[name] for name in options.names or rows], options.data)
        return
    for page in PAGES:
        (REPOSITORY / page).write_text(rendered(page))


if __name__ == "__main__":
    main()
