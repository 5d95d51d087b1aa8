"""Measures training on long sequences of one feature, beside PyTorch, on this machine.

    python benchmarks/long_sequences.py --peers=PYTHON

It writes long_sequences.json. PYTHON is an interpreter that has
benchmarks/requirements.txt, by default this one.
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
    speeds,
    table,
)

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.resolving import resolve
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.image_sets import image_task
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
# The same with another scan, or another amount of recomputation in the backward pass:
# changes of `Execution`, by the name of a model and what differs.
VARIANTS: dict[str, dict[str, Any]] = {
    "lru, one block": {"remat_time_steps": TIME},
    "lru, parallel scan": {"parallel_scan": True, "remat_time_steps": None},
    "lru, parallel scan in blocks": {"parallel_scan": True},
}
PEERS = ("lstm", "gru")
LENGTHENED = ("lstm", "lru")


def work_of(name: str) -> dict[str, Any]:
    """Returns the arguments of a worker that trains a model or a variant of one."""
    model = MODELS[name.split(",")[0]]
    return {"model": model, "execution": VARIANTS.get(name, {})}


def training(bench: Bench) -> dict[str, Any]:
    """Measures every recurrence, its variants, PyTorch's, and matrix products."""
    work = {"steps": 4, "rows": TIME, "columns": 1}
    workers = [
        *(
            Worker(name, OURS, "train", work | work_of(name))
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
    """Measures the LSTM and the LRU for several lengths."""
    workers = []
    for time in LENGTHS:
        work = {"steps": max(1, 4 * TIME // time), "rows": time, "columns": 1}
        for name in LENGTHENED:
            own = work | work_of(name)
            workers.append(Worker(f"{name}: {time}", OURS, "train", own))
    return bench.measure(workers)


def num_parameters(model: dict[str, Any]) -> int:
    """Returns the number of parameters for one feature and ten classes."""
    given = Config(data=DataConfig(view="pixels"), model=ModelConfig(**model))
    task = image_task(given.data)
    made = make_model(resolve(given, task).model, task, DEFAULTS["cpu"])
    return count_params(abstract_params(made))


def flop_per_image(model: dict[str, Any]) -> int:
    """Returns the operations of an image's products, without any recomputation.

    Each parameter is multiplied and added once a time step, and twice in the backward
    pass. Those of the head, which is applied once, are not counted.
    """
    units = model.get("hidden_size", 128)
    return 3 * 2 * TIME * (num_parameters(model) - 10 * (units + 1))


def code(name: str) -> str:
    """Formats the cell of a name as code: `lstm`, blocks of 28 time steps."""
    model, *variant = name.split(", ")
    *framework, cell = model.split()
    return ", ".join([*framework, f"`{cell}`", *variant])


def recurrences_table(measured: dict[str, Any]) -> str:
    """Compares the recurrences with PyTorch's and with the ceiling of products."""
    section = measured["training"]
    found = {name: speeds(rounds) for name, rounds in section.items()}
    peak = statistics.median(found[fastest_mode(section, "product")])
    rows = []
    for name in (*MODELS, *(f"PyTorch {peer}" for peer in PEERS)):
        own = found[name]
        beside_peer = share = ""
        if model := MODELS.get(name):
            percent = 100 * flop_per_image(model) / peak
            share = median_and_range([speed * percent for speed in own], ".0f")
        if name in PEERS:
            beside_peer = format_ratios(own, found[f"PyTorch {name}"])
        memory = format_memory(section[name])
        rows.append([code(name), format_speeds(own), beside_peer, share, memory])
    header = (
        "recurrence",
        "images/s",
        "relative to PyTorch's",
        "% of the ceiling",
        "peak MiB",
    )
    return table("784 time steps", header, rows)


def variants_table(measured: dict[str, Any]) -> str:
    """Compares the variants of `lru` with it."""
    section = measured["training"]
    found = {name: speeds(section[name]) for name in ("lru", *VARIANTS)}
    rows = []
    for name, own in found.items():
        relative = format_ratios(own, found["lru"])
        memory = format_memory(section[name])
        rows.append([code(name), format_speeds(own), relative, memory])
    header = ("scan", "images/s", "relative to `lru`", "peak MiB")
    return table("784 time steps", header, rows)


def format_memory(rounds: list[dict[str, Any]]) -> str:
    """Formats the peak memory of a worker in MiB."""
    return f"{rounds[-1]['peak_mib']:,.0f}"


def lengths_table(measured: dict[str, Any]) -> str:
    """Lists the cost of a time step by the length of the sequence."""
    found = {name: speeds(rounds) for name, rounds in measured["lengths"].items()}
    rows = []
    for name in LENGTHENED:
        costs = {  # microseconds for a time step of a batch, in each round
            time: [1e6 * BATCH / speed / time for speed in found[f"{name}: {time}"]]
            for time in LENGTHS
        }
        cells = [code(name)]
        for own in costs.values():
            ratio = statistics.median(ratios(own, costs[TIME]))
            cells.append(f"{statistics.median(own):,.0f} ({ratio:.2f})")
        rows.append(cells)
    lengths = (f"{time:,} time steps" for time in LENGTHS)
    header = ("µs per time step of 128 sequences", *lengths)
    return table("Length", header, rows)


def recurrences() -> str:
    """Returns the table of the recurrences."""
    return recurrences_table(read())


def scans() -> str:
    """Returns the tables of the scans and of the length, and their origin."""
    measured = read()
    parts = (variants_table, lengths_table, origin)
    return "\n".join(part(measured) for part in parts)


def read() -> dict[str, Any]:
    """Reads the measurements."""
    measured: dict[str, Any] = json.loads(NUMBERS.read_text())
    return measured


def main() -> None:
    """Parses the command line, measures both sections and writes the file."""
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
