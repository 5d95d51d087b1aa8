"""Measures training on sequence files with six data sets of the UEA and UCR archives.

    python tools/archive.py extract --wheel=FILE.whl --output=FOLDER
    python tools/archive.py measure --data=FOLDER
    python tools/archive.py dtw --data=FOLDER --python=PYTHON
    python tools/archive.py table

`extract` copies the files, with the official splits, out of aeon's wheel. `measure`
trains every data set with five seeds, one core per run, and writes
`results/archive.json`. Finished runs stay in `checkpoints/results`, and an interrupted
measurement reuses them. `dtw` adds 1-nearest-neighbour with dynamic time warping;
PYTHON is that of an environment with `benchmarks/requirements-dtw.txt`. `table` renders
the result between the markers of `docs/results.md`. Processes are pinned to cores,
which only Linux supports.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import results
from results import REPOSITORY, RESULTS, RUNS, Row
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.data import datasets
from rnnmnist.evaluation.accuracies import percent
from rnnmnist.main import parse
from rnnmnist.reporting import markdown
from rnnmnist.runs.files import write_json
from rnnmnist.runtime.machine import installed_versions, join_versions

DATASETS = (
    *("BasicMotions", "JapaneseVowels", "ItalyPowerDemand"),
    *("GunPoint", "ArrowHead", "OSULeaf"),
)
ROW = Row("archive", 5, "files data.path=FOLDER/NAME_TRAIN.ts")
RESULT = RESULTS / f"{ROW.name}.json"
PAGE = REPOSITORY / "docs" / "results.md"
SCORES = ("seed", "correct", "examples", "accuracy", "balanced_accuracy")


def extract(wheel: Path, output: Path) -> None:
    """Copies the files of the data sets out of aeon's wheel."""
    output.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in DATASETS:
            for file in (f"{name}_TRAIN.ts", f"{name}_TEST.ts"):
                content = archive.read(f"aeon/datasets/data/{name}/{file}")
                (output / file).write_bytes(content)


def flags(folder: Path, name: str, seed: int) -> list[str]:
    """Returns the settings of a run."""
    path = folder / f"{name}_TRAIN.ts"
    return ["--config=files", f"--config.data.path={path}", f"--config.seed={seed}"]


def summarize(folder: Path, name: str, members: list[Any]) -> dict[str, Any]:
    """Returns the size of a data set, the median time and the accuracy over seeds."""
    task, splits = datasets.load(parse(flags(folder, name, 0)).config.data)
    lengths = [own.lengths.min() for own in splits.values() if own.lengths is not None]
    accuracies = [member["accuracy"] for member in members]
    return {
        "dataset": name,
        "train": task.examples.train + task.examples.validation,
        "test": task.examples.test,
        "steps": task.time_steps,
        "shortest": int(min(lengths, default=task.time_steps)),
        "features": task.features,
        "classes": len(task.classes),
        "seconds": statistics.median(member["seconds"] for member in members),
        "members": members,
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies),
    }


def measure(data: Path) -> None:
    """Trains every data set with every seed and writes the result file."""
    cores = list(os.sched_getaffinity(0))

    def pin() -> None:  # a thread, and so the processes that it starts
        os.sched_setaffinity(0, {cores.pop()})

    pool = ThreadPoolExecutor(len(cores), initializer=pin)
    futures = {
        name: [pool.submit(train_once, data, name, seed) for seed in range(ROW.seeds)]
        for name in DATASETS
    }
    datasets = []
    try:
        for name, runs in futures.items():
            datasets.append(summarize(data, name, [run.result() for run in runs]))
            print(f"{name}: {results.accuracy_over_seeds(datasets[-1])}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # a failure starts no further runs
    origin = {
        "hardware": results.one_core(),
        "date": datetime.date.today().isoformat(),
        "versions": installed_versions(),
    }
    update({"command": ROW.command, **origin, "datasets": datasets})


def train_once(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Returns the test scores of a seed, which is trained unless a run of it exists."""
    workdir = RUNS / f"{ROW.name}_{name}-{seed}"
    finished, argv = workdir / "member.json", flags(folder, name, seed)
    config = parse(argv).config.replace(dict.fromkeys(DATA_PATHS))
    if finished.exists() and results.trained_config(workdir) == config:
        return json.loads(finished.read_text())
    (core,) = os.sched_getaffinity(0)  # of this thread
    argv = ["-m", "rnnmnist.main", *argv]
    seconds = results.run_on_core(argv, core, workdir, config)
    (path,) = (workdir / "evaluation").glob("test-*.json")
    scores = json.loads(path.read_text())
    member = {key: scores[key] for key in SCORES}
    member["seconds"] = seconds
    finished.write_text(json.dumps(member))
    return member


def measure_dtw(data: Path, python: Path) -> None:
    """Runs `benchmarks/run_dtw.py` on one core and adds its output to the result."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    argv = [str(python), "benchmarks/run_dtw.py", f"--data={data}", *DATASETS]
    output = subprocess.check_output(argv, cwd=REPOSITORY)
    update({"dtw": {"hardware": results.one_core()} | json.loads(output)})


def update(values: dict[str, Any]) -> None:
    """Replaces some values in the result file."""
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_json(RESULT, {"name": ROW.name} | content | values)


def table() -> str:
    """Returns the table of the data sets."""
    result = results.read_result(ROW.name)
    dtw = result["dtw"]
    header = (
        *("data set", "training / test sequences", "time steps x features", "classes"),
        *("LSTM, mean ± std over 5 seeds", "seconds", "1-NN DTW", "seconds"),
    )
    lines = []
    for own in result["datasets"]:
        neighbour = dtw["datasets"][own["dataset"]]
        line = [own["dataset"], f"{own['train']:,} / {own['test']:,}"]
        varied = "" if own["shortest"] == own["steps"] else f"{own['shortest']} to "
        line += [f"{varied}{own['steps']} x {own['features']}", str(own["classes"])]
        line += [results.accuracy_over_seeds(own), f"{own['seconds']:.0f}"]
        line += [percent(neighbour["correct"] / neighbour["examples"])]
        lines.append([*line, f"{neighbour['seconds']:.1f}"])
    versions = join_versions(dtw["versions"])
    origin = f"{results.origin([ROW])}1-NN DTW on {dtw['hardware']}; {versions}.\n"
    return markdown.table(header, lines) + origin


def fill_page() -> None:
    """Renders the table in the page."""
    PAGE.write_text(markdown.fill(PAGE.read_text(), ROW.name, table()))


def main() -> None:
    """Parses the command line and runs a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function, names in (
        ("extract", extract, ("wheel", "output")),
        ("measure", measure, ("data",)),
        ("dtw", measure_dtw, ("data", "python")),
        ("table", fill_page, ()),
    ):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        for flag in names:
            command.add_argument(f"--{flag}", type=Path, required=True)
    args = vars(parser.parse_args())
    function = args.pop("function")
    function(**{flag: path.absolute() for flag, path in args.items()})


if __name__ == "__main__":
    main()
