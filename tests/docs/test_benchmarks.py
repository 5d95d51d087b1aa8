"""The benchmark's worker processes."""

import json
from typing import Any

import pytest
from support import REPOSITORY, output_of, run_python

BENCHMARKS = REPOSITORY / "benchmarks"


OURS = {"steps": 1, "seeds": 2, "batch": 32, "flax_cell": True, "rows": 56}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "task", "settings", "amount"),
    [
        ("run_ours.py", "train", OURS | {"execution": {"unroll": 2}}, 64),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (
                ("run_ours.py", "product_numpy", {"size": 8}, 20 * 2 * 8**3),
                ("run_flax.py", "train", {"steps": 2}, 256),
                ("run_ours.py", "evaluate", {"images": 300}, 300),
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
