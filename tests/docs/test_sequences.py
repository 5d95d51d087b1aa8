"""The page on sequences: its commands and its Python run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import agrees, code_blocks, run_block

COMMANDS, PYTHON, OUTPUTS = (
    code_blocks("docs/sequences.md", language) for language in ("sh", "python", "text")
)


# The blocks for other tools, by their packages.
OF_TOOLS = {
    name: next(block for block in PYTHON if name in block)
    for name in ("tensorboardX", "optuna")
}


def accuracy_of(workdir: Path) -> float:
    (result,) = (workdir / "evaluation").glob("test-*.json")
    return float(json.loads(result.read_text())["accuracy"])


@pytest.mark.slow
def test_a_csv_file_leads_to_an_onnx_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    write, read_onnx, *_ = PYTHON
    run_block("python", write, tmp_path, environment)
    output = run_block("sh", COMMANDS[0], tmp_path, environment)
    shown, predicted, *_ = OUTPUTS
    assert agrees(output.replace(str(tmp_path), "/home/you"), shown), output
    assert run_block("python", read_onnx, tmp_path, environment) == predicted
    assert accuracy_of(tmp_path / "runs/waves") > 0.93


@pytest.mark.slow
def test_an_archive_file_leads_to_a_prediction(tmp_path: Path) -> None:
    package = [sys.executable, "-m", "pip", "download", "--no-deps", "aeon==1.6.0"]
    if subprocess.run(package, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("the package registry is not available")
    output = run_block("sh", COMMANDS[1], tmp_path, os.environ | {"XLA_FLAGS": ""})
    assert "270 / 0 / 370 sequences" in output
    assert len(re.findall(r"JapaneseVowels_TEST.ts, sequence \d+: \d, ", output)) == 370
    assert accuracy_of(tmp_path / "runs/vowels") > 0.93


@pytest.mark.slow
def test_the_python_on_the_page_runs(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    others = (PYTHON[1], *OF_TOOLS.values())
    python = "\n".join(block for block in PYTHON if block not in others)
    output = run_block("python", python, tmp_path, environment)
    assert re.search(r"^\{'hidden_size': (8|128)\}$", output, re.M)  # of the search
    assert "('falling', 'rising')" in output
    (stream,) = (block for block in COMMANDS if "--stream" in block)
    lines = run_block("sh", stream, tmp_path, environment).splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "written"),
    [
        ("tensorboardX", "tensorboard/slopes/events*"),
        ("optuna", "runs/trial4/metrics.jsonl"),
    ],
)
def test_other_tools_run(
    tmp_path: Path, environment: dict[str, str], package: str, written: str
) -> None:
    pytest.importorskip(package)
    run_block("python", PYTHON[2] + OF_TOOLS[package], tmp_path, environment)
    assert len(list(tmp_path.glob(written))) == 1
