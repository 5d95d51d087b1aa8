"""The programs that users run, which other fast tests compile without optimizations."""

import json
import re
from pathlib import Path

import pytest
from support import output_of, run_python

PROGRAM = """
import sys
from rnnmnist.commands import evaluate, predict, train

workdir, data_dir = sys.argv[1:]
run = [f"--workdir={workdir}", f"--config.data.data_dir={data_dir}"]
run += ["--config.train.learning_rate=0.02", "--config.train.eval_every_steps=20"]
run += ["--config.train.schedule=constant", "--num_processes=1"]
train.main([*run, "--config.train.num_steps=20"])
train.main([*run, "--config.train.num_steps=40"])
evaluate.main([f"--workdir={workdir}", "--step=latest"])
predict.main(["docs/five.jpg", "--json"])
"""


@pytest.mark.slow
def test_training_resuming_evaluation_and_prediction_with_optimized_programs(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """In one process, on the embedded images."""
    variables = environment | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    }
    argv = "-c", PROGRAM, tmp_path / "run", data_dir
    output = output_of(run_python(*argv, environment=variables))
    assert "resuming from step 20" in output
    results = re.findall(r"^(?:test  .*|mnist5k test .*) \((\d+) of 500;", output, re.M)
    _, of_trainer, of_evaluation = map(int, results)
    assert of_trainer == of_evaluation > 250
    assert json.loads(output.splitlines()[-1])["digit"] == 5
