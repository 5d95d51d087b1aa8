"""Measures training on a memory map that stays on the host, beside resident data.

    python benchmarks/large_data.py --folder=FOLDER

FOLDER receives 100,000 sequences of 200 time steps with 12 features (0.96 GB), once.
The output has a line for training data on the host and one for data on the devices,
measured in turn: the seconds from the start of the process to the first update, the
largest anonymous memory of the process, and the median of the sequences per second.
Only Linux is supported.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rnnmnist.runtime.machine import describe_processor

EXAMPLES, TIME_STEPS, FEATURES, CLASSES = 100_000, 200, 12, 5
PART = 10_000  # sequences that are written at a time
UPDATES, ROUNDS = 120, 3


def write(folder: Path) -> None:
    """Writes noise with labels that the first feature's mean tells."""
    shape = (EXAMPLES, TIME_STEPS, FEATURES)
    inputs = np.lib.format.open_memmap(
        folder / "inputs.npy", "w+", dtype=np.float32, shape=shape
    )
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, EXAMPLES)
    for start in range(0, EXAMPLES, PART):
        part = generator.standard_normal((PART, TIME_STEPS, FEATURES), np.float32)
        part[..., 0] += labels[start : start + PART, None] / 4
        inputs[start : start + PART] = part
    inputs.flush()
    np.save(folder / "labels.npy", labels)


def train(
    folder: Path, placement: str, updates: int
) -> tuple[float, float, list[float]]:
    """Trains for some updates, without an evaluation before the last one.

    Returns:
        The seconds to the first training line, the largest anonymous memory until the
        last one in bytes, and the sequences per second of each line.
    """
    every = max(1, updates // 6)
    with tempfile.TemporaryDirectory() as workdir:
        begin, first, memory = time.monotonic(), 0.0, 0
        command = [
            *(sys.executable, "-m", "rnnmnist.main", "--config=files"),
            f"--workdir={workdir}",
            f"--config.data.path={folder}",
            f"--config.execution.placement={placement}",
            "--config.train.batch_size=128",
            f"--config.train.num_steps={updates}",
            f"--config.train.eval_every_steps={updates}",
            f"--config.train.log_every_steps={every}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("epoch"):
                    first = first or time.monotonic() - begin
                    memory = max(memory, anonymous_memory(process.pid))
                if f"step {updates}/" in line:
                    break
            process.kill()
        lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["examples_per_second"] for line in lines]
    return first, memory, speeds[1:]


def anonymous_memory(process: int) -> int:
    """Returns the bytes of a process that no file backs."""
    text = Path(f"/proc/{process}/status").read_text()
    (kilobytes,) = re.findall(r"RssAnon:\s*(\d+) kB", text)
    return int(kilobytes) * 1024


def main() -> None:
    """Writes the data unless they exist, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    if not (folder / "labels.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
    firsts: dict[str, list[float]] = {"host": [], "device": []}
    memories: dict[str, list[float]] = {"host": [], "device": []}
    speeds: dict[str, list[float]] = {"host": [], "device": []}
    for _ in range(ROUNDS):
        for placement in firsts:
            first, _, _ = train(folder, placement, 1)
            _, memory, by_line = train(folder, placement, UPDATES)
            firsts[placement].append(first)
            memories[placement].append(memory / 1e9)
            speeds[placement] += by_line
    rows = [
        [
            placement,
            f"{statistics.median(firsts[placement]):.1f}",
            f"{max(memories[placement]):.2f}",
            f"{statistics.median(speeds[placement]):,.0f}",
        ]
        for placement in firsts
    ]
    header = ["placement", "seconds to the first update", "anonymous GB", "sequences/s"]
    print(describe_processor())
    for row in [header, *rows]:
        print(*row, sep="\t")


if __name__ == "__main__":
    main()
