"""Trains and evaluates configurations with several seeds.

    python tools/results.py --data=FOLDER
    python tools/results.py default best --data=FOLDER

Trains the named rows, or all rows, with `python -m rnnmnist.main` and all seeds, and
writes `results/NAME.json`. Each run uses one core, even if it trains an ensemble; runs
on different cores are parallel. FOLDER contains `mnist/` and `fashion_mnist/`, each
with the four original files, and the folders of `DATA_SETS`. Without `--data`, TFDS
downloads the images. Finished runs are kept in `checkpoints/results`, and are not
repeated. Pinning processes to cores requires Linux.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from result_files import REPOSITORY, write_result

from rnnmnist.commands.train import parse
from rnnmnist.config.recipes import choose_config
from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.config.tasks import Task
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.predictions import decision_times
from rnnmnist.evaluation.splits import load_split
from rnnmnist.runs.records import Record
from rnnmnist.runtime.devices import make_single_device_mesh
from rnnmnist.runtime.machine import describe_processor

RUNS = REPOSITORY / "checkpoints" / "results"
MAIN = "python -m rnnmnist.main"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: a configuration that is trained with several seeds.

    Attributes:
        name: the stem of the result file.
        seeds: the number of seeds. A run trains as many as the setting `num_seeds`.
        settings: the name of a configuration, followed by `KEY=VALUE` overrides.
        label: the text in the first column, in tables with labels.
    """

    name: str
    seeds: int
    settings: str
    label: str = ""

    @property
    def command(self) -> str:
        """The command of a run, without data paths."""
        config, *overrides = self.settings.split()
        flags = "".join(f" --config.{override}" for override in overrides)
        return f"{MAIN} --config={config}{flags} --config.seed=SEED"

    def config(self, seed: int = 0) -> Config:
        """Returns the configuration of a run, without data paths."""
        flags = self.command.removeprefix(f"{MAIN} ")
        argv = flags.replace("SEED", str(seed)).split()
        config, _ = choose_config(parse(argv).request)
        return config.replace(dict.fromkeys(DATA_PATHS))


CONFIGURATIONS = {
    name: Row(name, seeds, name)
    for name, seeds in {
        "embedded": 3,
        "tutorial": 3,
        "default": 5,
        "every_step": 5,
        "large_batch": 5,
        "best": 5,
        "fashion": 3,
    }.items()
}


def labelled(name: str, label: str) -> Row:
    """Returns the row of a shipped configuration, with a label."""
    return dataclasses.replace(CONFIGURATIONS[name], label=label)


def cumulative(
    base: str, prefix: str, *changes: tuple[str, str, str]
) -> tuple[Row, ...]:
    """Returns one row per change, in which all previous changes also apply.

    Args:
        base: the name of the first configuration, without changes.
        prefix: the prefix of the rows' names.
        changes: name, overrides and label of each row.
    """
    rows, settings = [], base
    for name, change, label in changes:
        settings = f"{settings} {change}"
        rows.append(Row(f"{prefix}_{name}", 3, settings, label))
    return tuple(rows)


CELLS = (
    Row("rnn", 5, "default model.cell=rnn", "`rnn`, the basic cell"),
    Row("gru", 5, "default model.cell=gru", "`gru`"),
    labelled("default", "`lstm`"),
)
INITIALIZERS = "model.initializer=flax"
COSINE = "train.schedule=cosine train.learning_rate=7e-3 train.warmup_fraction=0.02"
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
    labelled("default", "10 epochs, not 1.8, and selection on validation (`default`)"),
    *cumulative(
        "default",
        "ablation",
        ("affine", AFFINE, "random shift, rotation, scale and shear"),
        ("elastic", "data.elastic=0.8", "elastic transform"),
        ("size", "model.hidden_size=176", "176 hidden units, not 128"),
        ("smoothing", "train.label_smoothing=0.05", "label smoothing 0.05"),
        ("ema", "train.ema_decay=0.999", "EMA of the weights, decay 0.999"),
    ),
    labelled("best", "60 epochs, not 10 (`best`)"),
)
BOTH = "model.bidirectional=true model.hidden_size=86"
DIRECTIONS = (  # trained with the same library versions
    Row("forward", 5, "default", "forward"),
    Row("bidirectional", 5, f"default {BOTH}", "both, 86 units each"),
)
LAYERS = (
    dataclasses.replace(DIRECTIONS[0], label="`default`"),
    Row("two_layers", 5, "default model.num_layers=2", "`model.num_layers=2`"),
    Row("dropout", 5, "default model.dropout=0.2", "`model.dropout=0.2`"),
)
# Seed 0, chosen before training; `tools/make_reference.py` saves the networks.
REFERENCES = (
    Row("reference", 1, "best", "last row"),
    Row("reference_every_step", 1, "best train.loss=every_step", "every row"),
)
# Labels and settings of networks that read one pixel per time step, by cell. The
# recipes were selected on the validation split.
BY_PIXEL = {
    "lstm": (
        "`lstm`, chrono",
        "model.initializer=chrono train.learning_rate=4e-3 train.num_steps={} "
        "train.log_every_steps=430",
    ),
    "gru": (
        "`gru`",
        "model.cell=gru model.hidden_size=152 train.learning_rate=4e-3 "
        "train.num_steps={} train.log_every_steps=430",
    ),
    "lru": (
        "`lru`, 3 layers, mean over time",
        "model.cell=lru model.hidden_size=64 model.num_layers=3 model.pooling=mean "
        "train.learning_rate=4e-3 train.batch_size=64 train.num_steps={} "
        "train.eval_every_steps=860 train.log_every_steps=215",
    ),
}


def pixel_rows(view: str, **num_steps: int) -> tuple[Row, ...]:
    """Returns a row for each cell on sequential MNIST."""
    rows = []
    for cell, (label, recipe) in BY_PIXEL.items():
        settings = f"default data.view={view} {recipe.format(num_steps[cell])}"
        rows.append(Row(f"{view}_{cell}", 1, settings, label))
    return tuple(rows)


PIXELS = pixel_rows("pixels", lstm=12_900, gru=6_450, lru=12_900)
PERMUTED = pixel_rows("permuted", lstm=6_450, gru=6_450, lru=17_200)
# Data sets of the UEA and UCR archives, in folders as in aeon's wheel.
DATA_SETS = (
    "BasicMotions",
    "JapaneseVowels",
    "ItalyPowerDemand",
    "GunPoint",
    "ArrowHead",
    "OSULeaf",
    "PickupGestureWiimoteZ",
    "ACSF1",
)
FILES = "files num_seeds=5 data.path=FOLDER/{0}/{0}_TRAIN.ts model.cell={1}"


def archive_rows(prefix: str, cell: str) -> tuple[Row, ...]:
    """Returns a row for a cell on each data set in `DATA_SETS`."""
    return tuple(
        Row(f"{prefix}_{name}", 5, FILES.format(name, cell), name) for name in DATA_SETS
    )


# Trained before label smoothing became part of the recipe.
ARCHIVE = archive_rows("archive", "lru train.label_smoothing=0")
ARCHIVE_LSTM = archive_rows("lstm", "lstm train.label_smoothing=0")
ARCHIVE_FILTERS = archive_rows("filters", "filters")
ROWS = {
    row.name: row
    for row in (
        *CONFIGURATIONS.values(),
        *CELLS,
        *ABLATION,
        *LAYERS,
        *DIRECTIONS,
        *REFERENCES,
        *PIXELS,
        *PERMUTED,
        *ARCHIVE,
        *ARCHIVE_LSTM,
        *ARCHIVE_FILTERS,
    )
}


def train_all(
    rows: Iterable[Row], data: Path | None
) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """Trains rows with all seeds, with one run at a time on each core.

    After a failed run, no new runs start.

    Yields:
        Each row, with the results of `train_once`.
    """
    cores = list(os.sched_getaffinity(0))

    def pin() -> None:  # pins a thread, whose child processes inherit the affinity
        os.sched_setaffinity(0, {cores.pop()})

    pool = ThreadPoolExecutor(len(cores), initializer=pin)
    futures = {
        row: [
            pool.submit(train_once, row, seed, data)
            for seed in range(0, row.seeds, row.config().num_seeds)
        ]
        for row in rows
    }
    try:
        for row, runs in futures.items():
            yield row, [run.result() for run in runs]
    finally:
        pool.shutdown(cancel_futures=True)


def train_once(row: Row, seed: int, data: Path | None) -> dict[str, Any]:
    """Trains a run, unless a finished run with the same configuration exists.

    Returns:
        The evaluation of the best checkpoint, with `seconds` of processor time and, for
        a reference model, the counts of `counts_by_row`.
    """
    workdir = RUNS / f"{row.name}-{seed}"
    finished = workdir / "result.json"
    config = msgspec.json.encode(row.config(seed)).decode()
    if finished.exists():
        trained_config, run = json.loads(finished.read_text())
        if trained_config == config:
            return run
    shutil.rmtree(workdir, ignore_errors=True)
    command = row.command.replace("SEED", str(seed)).replace("FOLDER", str(data))
    argv = [sys.executable, *command.split()[1:], f"--workdir={workdir}"]
    dataset = row.config().data.name
    if data is not None and dataset not in ("mnist5k", "files"):
        argv.append(f"--config.data.manual_dir={data / dataset}")
    process = subprocess.Popen(argv, cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit code {process.returncode}")
    (path,) = (workdir / "evaluation").glob("test-*.json")
    run = json.loads(path.read_text())
    run["seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
    validation = Record(workdir).headers[run["step"]].metrics
    if validation is not None:
        run["validation_correct"] = validation.correct
    if row in REFERENCES:
        run |= counts_by_row(workdir)
    finished.write_text(json.dumps([config, run]))
    return run


def counts_by_row(workdir: Path) -> dict[str, Any]:
    """Counts correct predictions on the test split after each image row."""
    run = Network(Record(workdir), "best")
    _, _, examples = load_split(run)
    network = run.on(make_single_device_mesh("cpu"))
    predicted = network.probabilities(examples, every_step=True).argmax(axis=-1)
    is_correct = predicted == examples.labels[:, None]
    return {
        "correct_by_time": is_correct.sum(axis=0).tolist(),
        "decision_time": float(np.median(decision_times(predicted))),
    }


def aggregate(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Aggregates runs into the content of `results/NAME.json`.

    Counts are sums over seeds. `seconds` is the median processor time of a run.
    """
    members = [
        member | {"task": run["task"]}
        for run in runs
        for member in run.get("members") or [run]
    ]
    config = fill_defaults(row.config(), msgspec.convert(runs[0]["task"], Task))
    accuracies = [member["accuracy"] for member in members]
    confusions = np.sum([member["confusion"] for member in members], axis=0)
    return {
        "name": row.name,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "dataset": members[0]["dataset"],
        "split": "test",
        "examples": members[0]["examples"],
        "num_parameters": members[0]["num_parameters"],
        "correct": sum(member["correct"] for member in members),
        "confusion": confusions.tolist(),
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies) if accuracies[1:] else None,
        "ensemble_correct": runs[0].get("ensemble_correct"),
        "config": msgspec.to_builtins(config),
        "members": members,
    }


def one_core() -> str:
    """Describes the hardware of runs on one core."""
    return f"one core of {describe_processor().partition(' of ')[2]}"


def measure(rows: Iterable[Row], data: Path | None) -> None:
    """Trains rows with all seeds, and writes their result files."""
    for row, runs in train_all(rows, data):
        result = aggregate(row, runs)
        write_result(row.name, row.command, result, one_core())
        accuracies = [member["accuracy"] for member in result["members"]]
        print(row.name, *accuracies, flush=True)


def main() -> None:
    """Parses the command line, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--data", type=lambda text: Path(text).absolute())
    args = parser.parse_args()
    for name in args.names:
        if name not in ROWS:
            parser.error(f"NAME: must be one of {', '.join(ROWS)}, not {name}")
    measure([ROWS[name] for name in args.names or ROWS], args.data)


if __name__ == "__main__":
    main()
