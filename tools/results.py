"""Measures the configurations over several seeds, and puts the table into the README.

    python tools/results.py measure default --seeds=3 --config.data.manual_dir=FOLDER
    python tools/results.py table

`measure` trains every seed with `python -m rnnmnist.main`, from nothing but the
prepared data set, and writes `results/NAME.json`; `table` renders all of them
between the markers in README.md.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rnnmnist.machine import hardware

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "results"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")
NAMES = ("embedded", "default", "tutorial", "fashion")  # rows, in this order


def measure(name: str, seeds: int, overrides: list[str]) -> dict[str, Any]:
    """Trains a configuration with seeds 0, 1, … and gathers the test results.

    Returns:
        What `results/NAME.json` holds: counts are sums over the members, `seconds`
        the median over them of a whole process.
    """
    command = f"python -m rnnmnist.main --config={name} --config.seed=SEED"
    members = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            words = [*command.split()[1:], f"--workdir={folder}", *overrides]
            words = [word.replace("SEED", str(seed)) for word in words]
            begin = time.monotonic()
            subprocess.run([sys.executable, *words], check=True, cwd=REPOSITORY)
            seconds = time.monotonic() - begin
            (path,) = (Path(folder) / "evaluation").glob("test-*.json")
            members.append(
                json.loads(path.read_text()) | {"seconds": round(seconds, 1)}
            )
    accuracies = [member["accuracy"] for member in members]
    confusions = [member["confusion"] for member in members]
    return {
        "name": name,
        "command": command,
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "seconds": statistics.median(member["seconds"] for member in members),
        "dataset": members[0]["dataset"],
        "split": "test",
        "examples": members[0]["examples"],
        "num_parameters": members[0]["num_parameters"],
        "correct": sum(member["correct"] for member in members),
        "confusion": [
            [sum(counts) for counts in zip(*rows, strict=True)]
            for rows in zip(*confusions, strict=True)
        ],
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_std": statistics.stdev(accuracies),
        "members": members,
    }


def table() -> str:
    """The README's table, from the files in `results/`."""
    rows = [
        "| configuration | images | test accuracy, mean ± std | right of all, by seed |"
        " best step | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    results = [json.loads((RESULTS / f"{name}.json").read_text()) for name in NAMES]
    for result in results:
        members = result["members"]
        mean, std = 100 * result["accuracy_mean"], 100 * result["accuracy_std"]
        counts = ", ".join(f"{member['correct']:,}" for member in members)
        steps = ", ".join(str(member["step"]) for member in members)
        rows.append(
            f"| `{result['name']}` | {result['dataset']} | {mean:.2f} ± {std:.2f} % | "
            f"{counts} of {result['examples']:,} | {steps} | {result['seconds']:.0f} |"
        )
        if "tutorial_128" in members[0]:
            firsts = [str(member["tutorial_128"]["correct"]) for member in members]
            rows.append(
                f"| `{result['name']}`, first 128 alone | | | "
                f"{', '.join(firsts)} of 128 | | |"
            )
    places = sorted({result["hardware"] for result in results})
    versions = {
        ", ".join(
            f"{package} {number}" for package, number in result["versions"].items()
        )
        for result in results
    }
    return "\n".join([*rows, "", f"On {'; '.join(places)}; {'; '.join(versions)}.", ""])


def rendered(readme: str) -> str:
    """The README with the table between its markers."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END, 1)[1]


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("name", choices=NAMES)
    measuring.add_argument("--seeds", type=int, default=3)
    commands.add_parser("table")
    arguments, overrides = parser.parse_known_args()
    if arguments.command == "table":
        readme = REPOSITORY / "README.md"
        readme.write_text(rendered(readme.read_text()))
        return
    result = measure(arguments.name, arguments.seeds, overrides)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{arguments.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path}: {result['accuracy_mean']:.4f} ± {result['accuracy_std']:.4f}")


if __name__ == "__main__":
    main()
