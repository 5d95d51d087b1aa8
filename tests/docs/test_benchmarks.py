"""The benchmark's worker processes."""

import json

import pytest
from support import REPOSITORY, output_of, run_python

SETTINGS = {
    "steps": 1,
    "seeds": 2,
    "batch": 32,
    "flax_cell": True,
    "rows": 56,
    "execution": {"unroll": 2},
}


@pytest.mark.slow
def test_a_worker_runs_its_task_once_per_line(unoptimized: dict[str, str]) -> None:
    argv = REPOSITORY / "benchmarks/run_ours.py", "train", json.dumps(SETTINGS)
    finished = run_python(*argv, environment=unoptimized, input="now\nnow\n")
    ready, *lines = map(json.loads, output_of(finished).splitlines())
    assert ready == {"ready": True}
    assert [line["amount"] for line in lines] == [64] * 2
    assert all(line["seconds"] > 0 and line["peak_mib"] > 50 for line in lines)
