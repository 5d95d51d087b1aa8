"""The page on sequences: its commands and its Python run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "sequences.md").read_text()


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def run(arguments: list[str], folder: Path) -> str:
    """Runs a program with this environment's `python` and `pip`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    variables.pop("XLA_FLAGS")
    finished = subprocess.run(
        arguments,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=500,
    )
    if "No matching distribution" in finished.stderr or "retry" in finished.stderr:
        pytest.skip("the package registry is not available")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def without_numbers(line: str) -> str:
    """Replaces numbers and folders, which depend on the machine."""
    return re.sub(r"/\S*/(?=runs|exports)", "", re.sub(r"\d[\d.e-]*", "N", line))


@pytest.mark.slow
def test_a_csv_file_leads_to_an_onnx_file(tmp_path: Path) -> None:
    write, read_onnx, *_ = blocks("python")
    run([sys.executable, "-c", write], tmp_path)
    output = run(["bash", "-ec", blocks("sh")[0]], tmp_path)
    assert (tmp_path / "runs/waves/report/index.html").exists()
    assert re.search(r"^fresh.csv, sequence 0: square, 9\d\.\d\d %$", output, re.M)
    (result,) = (tmp_path / "runs/waves/evaluation").glob("test-*.json")
    assert json.loads(result.read_text())["accuracy"] > 0.93
    shown, printed = blocks("text")[:2]
    lines = set(map(without_numbers, output.splitlines()))
    assert set(map(without_numbers, shown.splitlines())) - {"..."} <= lines
    assert run([sys.executable, "-c", read_onnx], tmp_path) == printed


@pytest.mark.slow
def test_an_archive_file_leads_to_a_prediction(tmp_path: Path) -> None:
    output = run(["bash", "-ec", blocks("sh")[1]], tmp_path)
    assert "243 / 27 / 370 sequences" in output
    assert len(re.findall(r"JapaneseVowels_TEST.ts, sequence \d+: \d, ", output)) == 370
    (result,) = (tmp_path / "runs/vowels/evaluation").glob("test-*.json")
    assert json.loads(result.read_text())["accuracy"] > 0.93


@pytest.mark.slow
def test_the_python_on_the_page_runs(tmp_path: Path) -> None:
    _, _, *python = blocks("python")
    output = run([sys.executable, "-c", "\n".join(python)], tmp_path)
    assert "('falling', 'rising')" in output
    (stream,) = (block for block in blocks("sh") if "--stream" in block)
    lines = run(["bash", "-ec", stream], tmp_path).splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
