"""Compares training on long sequences of one feature with PyTorch, on this machine.

    python benchmarks/long_sequences.py --peers=PYTHON

Writes long_sequences.json. PYTHON is an interpreter with the packages of
benchmarks/requirements.txt; the default is the running interpreter.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import OURS, PRODUCTS, PYTORCH, Bench, Worker
from speed_tables import (
    fastest_mode,
    format_ratios,
    format_speeds,
    median_and_range,
    origin,
    ratios,
    read,
    relative_rows,
    section_speeds,
    table,
)

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.image_datasets import image_task
from rnnmnist.models.classifier import make_model
from rnnmnist.models.parameters import abstract_params, count_params

NUMBERS = Path(__file__).resolve().with_name("long_sequences.json")
TIME = 784
LENGTHS = (28, 112, 784, 3136)
BATCH = 128
# 67,850 to 76,042 parameters.
MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru", "hidden_size": 152},
    "rnn": {"cell": "rnn", "hidden_size": 256},
    "lru": {"cell": "lru", "hidden_size": 64, "num_layers": 3},
}
# Overrides of `Execution`: other scans, or more or less recomputation in the backward
# pass. A name consists of the model and the difference.
VARIANTS: dict[str, dict[str, Any]] = {
    "lru, one block": {"remat_time_steps": TIME},
    "lru, parallel scan": {"parallel_scan": True, "remat_time_steps": None},
    "lru, parallel scan in blocks": {"parallel_scan": True},
}
PEERS = ("lstm", "gru")
MEASURED_AT_ALL_LENGTHS = ("lstm", "lru")


def worker_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a worker that trains a model or one of its variants."""
    model = MODELS[name.split(",")[0]]
    return {"model": model, "execution": VARIANTS.get(name, {})}


def training(bench: Bench) -> dict[str, Any]:
    """Measures all cells and variants, PyTorch's cells, and matrix products."""
    work = {"steps": 4, "rows": TIME, "columns": 1}
    workers = [
        *(
            Worker(name, OURS, "train", work | worker_settings(name))
            for name in (*MODELS, *VARIANTS)
        ),
        *(
            Worker(f"PyTorch {name}", PYTORCH, "train", work | MODELS[name])
            for name in PEERS
        ),
        *PRODUCTS,
    ]
    return bench.measure(workers)


def lengths(bench: Bench) -> dict[str, Any]:
    """Measures the LSTM and the LRU at several sequence lengths."""
    workers = []
    for time in LENGTHS:
        work = {"steps": max(1, 4 * TIME // time), "rows": time, "columns": 1}
        for name in MEASURED_AT_ALL_LENGTHS:
            settings = work | worker_settings(name)
            workers.append(Worker(f"{name}: {time}", OURS, "train", settings))
    return bench.measure(workers)


def num_parameters(model: dict[str, Any]) -> int:
    """Counts the parameters of a model for one feature and ten classes."""
    config = Config(data=DataConfig(view="pixels"), model=ModelConfig(**model))
    task = image_task(config.data)
    network = make_model(resolve(config, task).model, task, DEFAULTS["cpu"])
    return count_params(abstract_params(network))


def flop_per_image(model: dict[str, Any]) -> int:
    """Returns the floating-point operations of the matrix products for one image.

    At each time step, the forward pass multiplies and adds each parameter once, the
    backward pass twice. Recomputation and the head, which is applied once, are not
    counted.
    """
    units = model.get("hidden_size", 128)
    return 3 * 2 * TIME * (num_parameters(model) - 10 * (units + 1))


def code(name: str) -> str:
    """Formats the cell in a name as code, such as "`lru`, one block"."""
    model, *variant = name.split(", ")
    *framework, cell = model.split()
    return ", ".join([*framework, f"`{cell}`", *variant])


def cells_table(measured: dict[str, Any]) -> str:
    """Compares the cells with PyTorch's, and with the ceiling of matrix products."""
    section, found = measured["training"], section_speeds(measured, "training")
    peak = statistics.median(found[fastest_mode(section, "product")])
    rows = []
    for name in (*MODELS, *(f"PyTorch {peer}" for peer in PEERS)):
        speed = found[name]
        relative = utilization = ""
        if model := MODELS.get(name):
            percent = 100 * flop_per_image(model) / peak
            utilization = median_and_range([percent * value for value in speed], ".0f")
        if name in PEERS:
            relative = format_ratios(speed, found[f"PyTorch {name}"])
        memory = format_memory(section[name])
        rows.append([code(name), format_speeds(speed), relative, utilization, memory])
    header = (
        "cell",
        "images/s",
        "relative to PyTorch",
        "% of the ceiling",
        "peak MiB",
    )
    return table("784 time steps", header, rows)


def variants_table(measured: dict[str, Any]) -> str:
    """Compares `lru` with its variants."""
    found = section_speeds(measured, "training")
    rows = [
        [code(name), *cells, format_memory(measured["training"][name])]
        for name, *cells in relative_rows(
            {name: found[name] for name in ("lru", *VARIANTS)}, "lru", ",.0f"
        )
    ]
    header = ("scan", "images/s", "relative to `lru`", "peak MiB")
    return table("784 time steps", header, rows)


def format_memory(rounds: list[dict[str, Any]]) -> str:
    """Formats the peak memory of a worker in MiB."""
    return f"{rounds[-1]['peak_mib']:,.0f}"


def lengths_table(measured: dict[str, Any]) -> str:
    """Lists the cost of a time step for each sequence length."""
    found = section_speeds(measured, "lengths")
    rows = []
    for name in MEASURED_AT_ALL_LENGTHS:
        costs = {  # microseconds per time step of a batch, in each round
            time: [1e6 * BATCH / speed / time for speed in found[f"{name}: {time}"]]
            for time in LENGTHS
        }
        cells = [code(name)]
        for cost in costs.values():
            ratio = statistics.median(ratios(cost, costs[TIME]))
            cells.append(f"{statistics.median(cost):,.0f} ({ratio:.2f})")
        rows.append(cells)
    lengths = (f"{time:,} time steps" for time in LENGTHS)
    header = ("µs per time step of 128 sequences", *lengths)
    return table("Sequence lengths", header, rows)


def cells() -> str:
    """Renders the table of the cells."""
    return cells_table(read(NUMBERS))


def scans() -> str:
    """Renders the tables of scans and lengths, and states their origin."""
    measured = read(NUMBERS)
    parts = (variants_table, lengths_table, origin)
    return "\n".join(part(measured) for part in parts)


def main() -> None:
    """Parses the command line, measures both sections, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    bench = Bench(args.peers, args.rounds)
    command = "python benchmarks/long_sequences.py --peers=PYTHON"
    measured = bench.origin(f"{command} --rounds={bench.rounds}")
    measured |= {"training": training(bench), "lengths": lengths(bench)}
    NUMBERS.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
