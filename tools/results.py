"""Measures configurations over several seeds and renders the tables of the pages.

    python tools/results.py measure --data=FOLDER
    python tools/results.py measure default best --data=FOLDER
    python tools/results.py table

`measure` trains the named rows, or all rows, with every seed by
`python -m rnnmnist.main`, and writes `results/NAME.json`. Each run has one core; runs
start on all cores in parallel. FOLDER contains `mnist/` and `fashion_mnist/`, each with
the four original files; without `--data`, TFDS downloads them. Runs stay in
`checkpoints/results`; an interrupted measurement resumes them. `table` renders
`results/` between the markers of README.md and of the pages in `docs/`. Processes are
pinned to cores, which only Linux supports.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy import stats

from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.evaluation.accuracies import interval, mean_and_std, percent
from rnnmnist.main import parse
from rnnmnist.reporting import markdown, run_data
from rnnmnist.runs.checkpoints import read_header
from rnnmnist.runtime.machine import (
    describe_processor,
    installed_versions,
    join_versions,
)

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "results"
RUNS = REPOSITORY / "checkpoints" / "results"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: a configuration that is trained with several seeds.

    Attributes:
        name: the stem of its result file.
        seeds: the number of runs.
        settings: the name of a configuration, then `KEY=VALUE` overrides.
        label: the first column of the tables that have one.
        change: the overrides that distinguish it from the row above.
        program: what Python runs, before the flags of `rnnmnist.main`.
    """

    name: str
    seeds: int
    settings: str
    label: str = ""
    change: str = ""
    program: str = "-m rnnmnist.main"

    @property
    def command(self) -> str:
        """The command that trains one seed, without the paths of the data."""
        config, *overrides = self.settings.split()
        flags = "".join(f" --config.{override}" for override in overrides)
        return f"python {self.program} --config={config}{flags} --config.seed=SEED"

    @property
    def counts_by_time(self) -> bool:
        """Whether the result file has counts after each time step: of 28 exact ones."""
        return self.program != BFLOAT16 and self.config().data.view == "rows"

    def config(self, seed: int = 0) -> Config:
        """The configuration of one seed, without the paths of the data."""
        flags = self.command.removeprefix(f"python {self.program} ")
        argv = flags.replace("SEED", str(seed)).split()
        return parse(argv).config.replace(dict.fromkeys(DATA_PATHS))


CONFIGURATIONS = {
    name: Row(name, seeds, name)
    for name, seeds in (
        *(("embedded", 3), ("tutorial", 3), ("default", 5)),
        *(("every_step", 5), ("large_batch", 5), ("best", 5), ("fashion", 3)),
    )
}
# The rows of the README's table, with their data and recipe.
HEADLINE = {
    "embedded": (
        "5,000 MNIST images, shipped",
        "48 epochs, shifts of up to 2 pixels",
    ),
    "tutorial": ("MNIST", "the 2016 tutorial, 1.8 epochs"),
    "default": ("MNIST", "10 epochs, no augmentation"),
    "best": ("MNIST", "60 epochs, augmentation"),
    "fashion": ("Fashion-MNIST", "50 epochs, augmentation"),
}


def labelled(name: str, label: str, change: str = "") -> Row:
    """Returns the row of a shipped configuration with a label."""
    return dataclasses.replace(CONFIGURATIONS[name], label=label, change=change)


def cumulative(
    base: str, prefix: str, *changes: tuple[str, str, str]
) -> tuple[Row, ...]:
    """Returns one row per change; each also has the changes of all rows before it.

    Args:
        base: the name of the configuration that is changed.
        prefix: of the rows' names.
        changes: the name, overrides and label of each row.
    """
    rows, settings = [], base
    for name, change, label in changes:
        settings = f"{settings} {change}"
        rows.append(Row(f"{prefix}_{name}", 3, settings, label, change))
    return tuple(rows)


CELLS = (
    Row("rnn", 5, "default model.cell=rnn", "`rnn`, the basic cell"),
    Row("gru", 5, "default model.cell=gru", "`gru`"),
    labelled("default", "`lstm`"),
)
INITIALIZERS = "model.initializer=flax"
COSINE = "train.schedule=cosine train.learning_rate=7e-3 train.warmup_fraction=0.02"
BFLOAT16 = "tools/bfloat16.py run rnnmnist.main"  # a CPU ignores `execution.precision`
PRECISIONS = (
    labelled("default", "float32"),
    Row(
        *("bfloat16", 3, "default execution.precision=bfloat16", "bfloat16"),
        program=BFLOAT16,
    ),
)
BATCHES = (labelled("default", "128"), labelled("large_batch", "1,024"))
AFFINE = "data.max_shift=2 data.max_rotation=12 data.max_scale=0.15 data.max_shear=0.2"
ABLATION = (
    labelled("tutorial", "the 2016 recipe (`tutorial`)"),
    *cumulative(
        "tutorial",
        "ablation",
        ("weights", INITIALIZERS, "orthogonal and LeCun-normal initializers"),
        ("schedule", COSINE, "cosine decay from 7e-3 with warm-up, not constant 1e-3"),
        ("clipping", "train.clip_norm=1", "gradient clipping at norm 1"),
        ("decay", "train.weight_decay=0.1", "weight decay 0.1"),
    ),
    labelled(
        "default",
        "10 epochs, not 1.8, and selection on validation (`default`)",
        "train.num_steps=4300 train.eval_every_steps=430",
    ),
    *cumulative(
        "default",
        "ablation",
        ("affine", AFFINE, "random shift, rotation, scale and shear"),
        ("elastic", "data.elastic=0.8", "elastic distortion"),
        ("size", "model.hidden_size=176", "176 hidden units, not 128"),
        ("smoothing", "train.label_smoothing=0.05", "label smoothing 0.05"),
        ("average", "train.ema_decay=0.999", "moving average of the weights, 0.999"),
    ),
    labelled(
        "best",
        "60 epochs, not 10 (`best`)",
        "train.num_steps=25800 train.eval_every_steps=860",
    ),
)
SMOOTHING = ("smoothing", "train.label_smoothing=0.05", "label smoothing")
AVERAGE = ("average", "train.ema_decay=0.998", "moving average of the weights")
SINGLE_CHANGES = (
    labelled("default", "none (`default`)"),
    *cumulative("default", "alone", SMOOTHING),
    *cumulative("default", "alone", AVERAGE),
    labelled(
        "every_step",
        "loss after every time step (`every_step`)",
        "train.loss=every_step",
    ),
)
# Seed 0, chosen before training; `tools/make_reference.py` saves the networks.
REFERENCES = (
    Row("reference", 1, "best", "last row"),
    Row("reference_every_step", 1, "best train.loss=every_step", "every row"),
)
# Sequential MNIST: a pixel per time step. The recipes were chosen on validation.
LRU_LAYERS = (
    "model.cell=lru model.hidden_size=64 model.num_layers=3 model.pooling=mean "
    "train.learning_rate=4e-3 train.batch_size=64"
)
PIXELS_LSTM = (
    "model.initializer=chrono train.learning_rate=4e-3 train.num_steps=12900 "
    "train.log_every_steps=430"
)
PIXELS_GRU = (
    "model.cell=gru model.hidden_size=152 train.learning_rate=4e-3 "
    "train.num_steps=6450 train.log_every_steps=430"
)
PIXELS = (
    Row("pixels_lstm", 1, f"default data.view=pixels {PIXELS_LSTM}", "`lstm`, chrono"),
    Row("pixels_gru", 1, f"default data.view=pixels {PIXELS_GRU}", "`gru`"),
    Row(
        "pixels_lru",
        1,
        f"default data.view=pixels {LRU_LAYERS} train.num_steps=12900 "
        "train.eval_every_steps=860 train.log_every_steps=215",
        "`lru`, 3 layers, mean over time",
    ),
)
PERMUTED = (
    Row(
        "permuted_lstm",
        1,
        "default data.view=permuted model.initializer=chrono "
        "train.learning_rate=4e-3 train.num_steps=6450 train.log_every_steps=430",
        "`lstm`, chrono",
    ),
    Row("permuted_gru", 1, f"default data.view=permuted {PIXELS_GRU}", "`gru`"),
    Row(
        "permuted_lru",
        1,
        f"default data.view=permuted {LRU_LAYERS} train.num_steps=17200 "
        "train.eval_every_steps=860 train.log_every_steps=215",
        "`lru`, 3 layers, mean over time",
    ),
)
ROWS = {
    row.name: row
    for row in (
        *CONFIGURATIONS.values(),
        *CELLS,
        *PRECISIONS,
        *ABLATION,
        *SINGLE_CHANGES,
        *REFERENCES,
        *PIXELS,
        *PERMUTED,
    )
}


def measure(rows: Iterable[Row], data: Path | None) -> None:
    """Trains every seed of some rows and writes their result files."""
    with train_all(rows, data) as trained:
        for row, members in trained:
            result = aggregate(row, members)
            path = RESULTS / f"{row.name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{path.name}: {accuracy_over_seeds(result)}", flush=True)


@contextlib.contextmanager
def train_all(
    rows: Iterable[Row], data: Path | None
) -> Iterator[Iterator[tuple[Row, list[dict[str, Any]]]]]:
    """Trains every seed of some rows, one on each core.

    Yields:
        An iterator over the rows, each with the results of `train_once`. A failure
        starts no further runs.
    """
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
    futures = {
        row: [pool.submit(train, row, seed) for seed in range(row.seeds)]
        for row in rows
    }
    try:
        yield ((row, [run.result() for run in runs]) for row, runs in futures.items())
    finally:
        pool.shutdown(cancel_futures=True)


def train_once(row: Row, seed: int, core: int, data: Path | None) -> dict[str, Any]:
    """Trains one seed on one core, unless a finished run of it exists.

    Returns:
        The evaluation of the best checkpoint, with `seconds` of processor time and the
        counts of `counts_by_row`.
    """
    workdir = RUNS / f"{row.name}-{seed}"
    finished = workdir / "member.json"
    if finished.exists() and trained_config(workdir) == row.config(seed):
        return json.loads(finished.read_text())
    argv = row.command.replace("SEED", str(seed)).split()[1:]
    dataset = row.config().data.name
    if data is not None and dataset != "mnist5k":
        argv.append(f"--config.data.manual_dir={data / dataset}")
    seconds = run_on_core(argv, core, workdir, row.config(seed))
    (path,) = (workdir / "evaluation").glob("test-*.json")
    member = json.loads(path.read_text())
    member["seconds"] = seconds
    validation = read_header(workdir, member["step"]).metrics
    assert validation is not None
    member["validation_correct"] = validation.correct
    if row.counts_by_time:
        member |= counts_by_row(workdir)
    finished.write_text(json.dumps(member))
    return member


def run_on_core(argv: list[str], core: int, workdir: Path, config: Config) -> float:
    """Trains a run on one core, or resumes it.

    Args:
        argv: what Python runs, without `--workdir`.
        core: the number of the core.
        workdir: of the run; emptied if it holds another one.
        config: without the paths of the data.

    Returns:
        The processor seconds of all processes of the run, without those of a process
        that outlived this one.

    Raises:
        SystemExit: if the process fails.
    """
    saved = workdir / "config.json"
    if not saved.exists() or trained_config(workdir) != config:
        shutil.rmtree(workdir, ignore_errors=True)
    argv = [*argv, f"--workdir={workdir}"]
    process = subprocess.Popen([sys.executable, *argv], cwd=REPOSITORY)
    os.sched_setaffinity(process.pid, {core})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    spent = workdir / "processor_seconds.json"
    seconds = json.loads(spent.read_text()) if spent.exists() else 0.0
    seconds = round(seconds + usage.ru_utime + usage.ru_stime, 1)
    if saved.exists():
        spent.write_text(json.dumps(seconds))
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit code {process.returncode}")
    return seconds


def trained_config(workdir: Path) -> Config:
    """Returns the configuration of a run, without the paths of the data."""
    config = Config.from_dict(json.loads((workdir / "config.json").read_text()))
    return config.replace(dict.fromkeys(DATA_PATHS))


def counts_by_row(workdir: Path) -> dict[str, Any]:
    """Counts correct predictions on the test split after each row."""
    run = run_data.load_run_data(workdir, "best", {})
    (network,) = run.networks
    return {
        "correct_after_steps": network.correct_by_time.tolist(),
        "decision_step": float(np.median(network.decision_times)),
    }


def aggregate(row: Row, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of `results/NAME.json`: counts are sums over the seeds.

    `seconds` is the median over seeds of the processor time of a process on one core.
    """
    accuracies = [member["accuracy"] for member in members]
    confusions = np.sum([member["confusion"] for member in members], axis=0)
    return {
        "name": row.name,
        "command": row.command,
        "hardware": one_core(),
        "date": datetime.date.today().isoformat(),
        "versions": installed_versions(),
        "seconds": statistics.median(member["seconds"] for member in members),
        "dataset": members[0]["dataset"],
        "split": "test",
        "examples": members[0]["examples"],
        "num_parameters": members[0]["num_parameters"],
        "correct": sum(member["correct"] for member in members),
        "confusion": confusions.tolist(),
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if accuracies[1:] else None,
        "config": msgspec.to_builtins(row.config()),
        "members": members,
    }


def one_core() -> str:
    """Returns the hardware of a process that is pinned to a core."""
    return f"one core of {describe_processor().partition(' of ')[2]}"


def read_result(name: str) -> dict[str, Any]:
    """Reads a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def accuracy_over_seeds(result: dict[str, Any]) -> str:
    """Formats the mean and the standard deviation of the accuracy over seeds.

    Of a single seed, formats the accuracy and its 95 % interval over images.
    """
    if result["accuracy_std"] is None:
        (member,) = result["members"]
        between = interval(member["accuracy_interval"])
        return f"{percent(member['accuracy'])} ({between})"
    return mean_and_std(result["accuracy_mean"], result["accuracy_std"])


def mean_validation(result: dict[str, Any]) -> str:
    """Formats the mean accuracy over seeds on the 5,000 validation images."""
    counts = [member["validation_correct"] for member in result["members"]]
    return f"{100 * statistics.mean(counts) / 5_000:.2f} %"


def by_seed(result: dict[str, Any], key: str, spec: str = "") -> str:
    """Lists an integer of every seed."""
    return ", ".join(f"{member[key]:{spec}}" for member in result["members"])


def epochs(result: dict[str, Any]) -> float:
    """Returns the number of epochs of a run."""
    train = result["config"]["train"]
    examples = result["members"][0]["task"]["examples"]["train"]
    return train["num_steps"] * train["batch_size"] / examples


def seconds(result: dict[str, Any]) -> str:
    """Formats the processor seconds of a run, with the machine's vectors if known."""
    _, _, vectors = result["hardware"].partition(" with ")
    return f"{result['seconds']:.0f}" + (f" ({vectors})" if vectors else "")


def first_128(result: dict[str, Any]) -> str:
    """Lists each seed's correct predictions for the images that the tutorial scored."""
    counts = [member.get("tutorial_128", {}) for member in result["members"]]
    return ", ".join(str(count["correct"]) for count in counts if count)


# What a table shows of a row and of its result file, by the column's title.
COLUMNS: dict[str, Callable[[Row, dict[str, Any]], str]] = {
    "configuration": lambda row, _: f"`{row.name}`",
    "result file": lambda row, _: f"`{row.name}`",
    **dict.fromkeys(
        ("cell", "batch", "recurrence", "loss", "products", "change"),
        lambda row, _: row.label,
    ),
    "settings": lambda row, _: ", ".join(f"`{word}`" for word in row.change.split()),
    "data": lambda row, _: HEADLINE[row.name][0],
    "recipe": lambda row, _: HEADLINE[row.name][1],
    "data set": lambda _, result: result["dataset"],
    "batch size": lambda _, result: str(result["config"]["train"]["batch_size"]),
    "epochs": lambda _, result: f"{epochs(result):.0f}",
    "parameters": lambda _, result: f"{result['num_parameters']:,}",
    "validation accuracy, mean": lambda _, result: mean_validation(result),
    "test accuracy, mean ± std": lambda _, result: accuracy_over_seeds(result),
    "test accuracy": lambda _, result: accuracy_over_seeds(result),
    "correct, by seed": lambda _, result: (
        f"{by_seed(result, 'correct', ',')} of {result['examples']:,}"
    ),
    "of the first 128": lambda _, result: first_128(result),
    "best step, by seed": lambda _, result: by_seed(result, "step"),
    "test images": lambda _, result: f"{result['examples']:,}",
    "seeds": lambda _, result: str(len(result["members"])),
    "seconds": lambda _, result: seconds(result),
}


def table(rows: Iterable[Row], *titles: str) -> str:
    """Returns a table of some rows with some of the columns."""
    results = [(row, read_result(row.name)) for row in rows]
    lines = [[COLUMNS[title](*result) for title in titles] for result in results]
    return markdown.table(titles, lines)


def origin(rows: Iterable[Row]) -> str:
    """States the hardware, the versions and the dates of the measurements of rows."""
    results = [read_result(row.name) for row in rows]
    machines = {result["hardware"] for result in results}
    libraries = {join_versions(result["versions"]) for result in results}
    dates = sorted({result["date"] for result in results})
    return (
        f"\nOn {'; '.join(sorted(machines))}; {'; '.join(sorted(libraries))}; measured "
        f"on {' and '.join(dates)}.\n"
    )


def headline() -> str:
    """Returns the README's table."""
    return table(
        map(CONFIGURATIONS.__getitem__, HEADLINE),
        *("configuration", "data", "recipe", "parameters"),
        *("test accuracy, mean ± std", "test images", "seeds", "seconds"),
    )


def configurations() -> str:
    """Returns the table of the shipped configurations."""
    rows = CONFIGURATIONS.values()
    titles = ("configuration", "data set", "parameters", "test accuracy, mean ± std")
    counts = ("correct, by seed", "of the first 128", "best step, by seed")
    return table(rows, *titles, *counts, "seconds") + origin(rows)


def changes(rows: tuple[Row, ...]) -> str:
    """Returns a table of rows that are distinguished by their changes."""
    titles = ("change", "settings", "result file", "validation accuracy, mean")
    numbers = ("test accuracy, mean ± std", "correct, by seed", "seconds")
    return table(rows, *titles, *numbers) + origin(rows)


def differences(rows: tuple[Row, ...]) -> str:
    """Returns a table that compares the test accuracy of each row with the one above.

    The interval of a difference is Welch's, of 95 %, over seeds.
    """
    titles = ("change", "test accuracy, mean ± std", "seeds")
    lines: list[list[str]] = []
    before: list[float] = []
    for row in rows:
        result = read_result(row.name)
        percents = [100 * member["accuracy"] for member in result["members"]]
        difference = ""
        if before:
            compared = stats.ttest_ind(percents, before, equal_var=False)
            low, high = compared.confidence_interval(0.95)
            change = statistics.mean(percents) - statistics.mean(before)
            difference = f"{change:+.2f} ({low:+.2f} to {high:+.2f})"
            if low > 0 or high < 0:
                difference = f"**{difference}**"
        lines.append([*(COLUMNS[title](row, result) for title in titles), difference])
        before = percents
    return markdown.table((*titles, "difference, 95 % interval"), lines)


def cells() -> str:
    """Returns the table of the three cells, trained with the default recipe."""
    titles = ("cell", "result file", "parameters", "test accuracy, mean ± std")
    return table(CELLS, *titles, "correct, by seed", "seconds") + origin(CELLS)


def precisions() -> str:
    """Returns the table of the default recipe with products of two precisions."""
    titles = ("products", "result file", "validation accuracy, mean")
    numbers = ("test accuracy, mean ± std", "correct, by seed")
    return table(PRECISIONS, *titles, *numbers) + origin(PRECISIONS)


def batches() -> str:
    """Returns the table of the recipes for two batch sizes."""
    titles = ("batch", "configuration", "validation accuracy, mean")
    numbers = ("test accuracy, mean ± std", "correct, by seed", "best step, by seed")
    return table(BATCHES, *titles, *numbers) + origin(BATCHES)


def single_runs(title: str, rows: tuple[Row, ...]) -> str:
    """Returns a table of rows of few seeds, with a title for their labels."""
    accuracies = ("test accuracy", "validation accuracy, mean", "correct, by seed")
    recipe = ("parameters", "epochs", "batch size", "best step, by seed", "seconds")
    return table(rows, title, *accuracies, *recipe, "result file") + origin(rows)


def accuracy_by_row() -> str:
    """Returns the table of the accuracy after some of the rows, for both losses."""
    after = (4, 8, 10, 12, 14, 16, 18, 20, 24, 28)
    lines = []
    for reference, loss in zip(REFERENCES, ("last", "every_step"), strict=True):
        result = read_result(reference.name)
        members = result["members"]
        counts = np.array([member["correct_after_steps"] for member in members])
        percents = 100 * counts.mean(0) / result["examples"]
        decided = statistics.mean(member["decision_step"] for member in members)
        early = [f"{percents[row - 1]:.1f}" for row in after]
        lines.append(
            [f"`{loss}`", accuracy_over_seeds(result), *early, f"{decided:.1f}"]
        )
    header = ["`train.loss`", "test accuracy"]
    header += [*(f"row {row}" for row in after), "decided, median"]
    return markdown.table(header, lines)


# The tables of each page, by the names of their markers.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"results": headline},
    "docs/results.md": {
        "results": configurations,
        "references": functools.partial(single_runs, "loss", REFERENCES),
        "ablation": functools.partial(changes, ABLATION),
        "single_changes": functools.partial(changes, SINGLE_CHANGES),
    },
    "docs/accelerators.md": {"precisions": precisions, "batches": batches},
    "docs/long_sequences.md": {
        "pixels": functools.partial(single_runs, "recurrence", PIXELS),
        "permuted": functools.partial(single_runs, "recurrence", PERMUTED),
    },
    "docs/drawing_page.md": {"accuracy_by_row": accuracy_by_row},
    "docs/tutorial.md": {
        "cells": cells,
        "ablation": functools.partial(differences, ABLATION),
    },
}


def render(page: str) -> str:
    """Returns a page with its tables rendered anew."""
    text = (REPOSITORY / page).read_text()
    for name, table in PAGES[page].items():
        text = markdown.fill(text, name, table())
    return text


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ROWS))
    measuring.add_argument("--data", type=lambda text: Path(text).absolute())
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "measure":
        for name in args.names:
            if name not in ROWS:
                parser.error(f"NAME: must be one of {', '.join(ROWS)}, not {name}")
        measure([ROWS[name] for name in args.names or ROWS], args.data)
    else:
        for page in PAGES:
            (REPOSITORY / page).write_text(render(page))


if __name__ == "__main__":
    main()
