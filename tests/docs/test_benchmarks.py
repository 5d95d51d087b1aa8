"""The benchmark: its tables match its measurements, and its workers run."""

import json
import re
from typing import Any

import long_sequences
import pytest
import speed_tables
import worker
from support import REPOSITORY, output_of, run_python

from rnnmnist.config.files import load_config
from rnnmnist.config.schema import Config

BENCHMARKS = REPOSITORY / "benchmarks"


def test_the_networks_on_long_sequences_have_similar_sizes() -> None:
    models = long_sequences.MODELS
    sizes = [long_sequences.num_parameters(models[name]) for name in models]
    assert 65_000 < min(sizes) < max(sizes) < 80_000
    # The LSTM's product per step has 128 + 2 columns and 512 rows.
    expected = 3 * 2 * 784 * (128 + 2) * 512
    assert long_sequences.flop_per_image(models["lstm"]) == expected


def rounds(*speeds: float) -> list[dict[str, float]]:
    return [{"seconds": 2.0, "amount": 2 * speed, "peak_mib": 9.0} for speed in speeds]


@pytest.fixture
def measured() -> dict[str, Any]:
    """The measurements, some of them replaced by ones with simple ratios."""
    flop = speed_tables.FLOP_PER_IMAGE
    run = {"seconds": 20.0, "epochs": 3, "correct": 9880}
    peer = {"seconds": 30.0, "epochs": 4, "correct": 9860}
    recipe = {"rnnmnist, warm cache": [run], "PyTorch": [peer], "Flax": [peer]}
    return speed_tables.read() | {
        "throughput": {
            "rnnmnist": rounds(120, 300, 90),
            "Flax": rounds(60, 60, 60),
            "PyTorch": rounds(50, 50, 50),
            "PyTorch, compiled": rounds(100, 100, 100),
            "product, A": rounds(200 * flop, 600 * flop, 200 * flop),
            "product, B": rounds(1, 1, 1),
        },
        "evaluation": {
            "rnnmnist": rounds(300, 300),
            "Flax, batch 1": rounds(200, 200),
            "PyTorch, batch 1": rounds(250, 250),
            "PyTorch, batch 2": rounds(100, 100),
        },
        "accuracy": {"98.5": recipe, "99.0": recipe},
    }


def test_the_summary_shows_the_faster_modes(measured: dict[str, Any]) -> None:
    training, evaluation = speed_tables.summary(measured).splitlines()[4:6]
    assert training.endswith("| 120 (90 to 300) | 60 (60 to 60) | 100 (100 to 100) |")
    assert evaluation.endswith(
        "| 300 (300 to 300) | 200 (200 to 200) | 250 (250 to 250) |"
    )


@pytest.mark.parametrize(
    "line",
    [
        "2.00 times PyTorch, compiled in training and 2.40 times PyTorch, batch 1 in",
        "| rnnmnist | 120 (90 to 300) | 1.00 (1.00 to 1.00) | 50 (45 to 60) |",
        "| PyTorch | 50 (50 to 50) | 2.40 (1.80 to 6.00) | 25 (8 to 25) |",
        "| 1.50 (1.50 to 1.50) | 98.600 % |",
        "| 1.50 (1.50 to 1.50) | 98.600 % (missed) |",
    ],
)
def test_the_tables_compare_round_by_round(line: str, measured: dict[str, Any]) -> None:
    assert line in speed_tables.tables(measured)


@pytest.mark.parametrize(
    ("script", "task", "settings", "amount"),
    [
        ("run_ours.py", "product_numpy", {"size": 8}, 20 * 2 * 8**3),
        # The others compile programs of their own.
        *(
            pytest.param(script, *values, marks=pytest.mark.slow)
            for script, *values in (
                ("run_flax.py", "train", {"steps": 2}, 256),
                ("run_flax.py", "evaluate", {"images": 300, "batch": 128}, 300),
                (
                    "run_ours.py",
                    "train",
                    {"steps": 1, "seeds": 2, "batch": 32, "flax_cell": True}
                    | {"rows": 56, "execution": {"unroll": 2}},
                    64,
                ),
                ("run_ours.py", "evaluate", {"images": 300}, 300),
                ("run_ours.py", "product_xla", {"size": 8}, 20 * 2 * 8**3),
            )
        ),
    ],
)
def test_a_worker_runs_its_task_once_per_line(
    script: str,
    task: str,
    settings: dict[str, Any],
    amount: int,
    unoptimized: dict[str, str],
) -> None:
    argv = BENCHMARKS / script, task, json.dumps(settings)
    finished = run_python(*argv, environment=unoptimized, input="now\nnow\n")
    ready, *lines = map(json.loads, output_of(finished).splitlines())
    assert ready == {"ready": True}
    assert [line["amount"] for line in lines] == [amount] * 2
    assert all(line["seconds"] > 0 and line["peak_mib"] > 50 for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("work", [[], ["--evaluate"]])
def test_operations_are_sorted_shares_of_the_time(work: list[str]) -> None:
    argv = BENCHMARKS / "operations.py", "--config=embedded", "--shape", "4", "128"
    heading, *lines = output_of(run_python(*argv, *work)).splitlines()
    assert re.search(r", \d+ of \d+ GFLOP/s$", heading)
    shares = [float(line.split("%")[0]) for line in lines]
    assert len(lines) == 11
    assert shares[0] == 100 >= sum(shares[1:])
    assert shares[1:] == sorted(shares[1:], reverse=True)
    assert any(line.endswith(" products") for line in lines[1:4])


@pytest.mark.parametrize("name", ["accuracy_98_5", "accuracy_99_0"])
def test_a_recipe_validates_at_its_end_and_changes_what_peers_follow(name: str) -> None:
    config = load_config(BENCHMARKS / "recipes" / f"{name}.py")
    assert config.train.eval_every_steps == config.train.num_steps
    values, defaults = config.flat(), Config().flat()
    changed = {key.rpartition(".")[2] for key in values if values[key] != defaults[key]}
    assert "learning_rate" in changed
    assert changed <= {*worker.Recipe._fields, "eval_every_steps"}
