"""The pages on sequences: their commands and their Python run as they stand."""

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import agrees, code_blocks, run_block

# What the blocks for other tools write, by their packages.
WRITTEN = {
    "tensorboardX": "tensorboard/slopes/events*",
    "optuna": "runs/trial2/metrics.jsonl",
}


def accuracy_of(workdir: Path) -> float:
    (result,) = (workdir / "evaluation").glob("test-*.json")
    return float(json.loads(result.read_text())["accuracy"])


@pytest.mark.slow
def test_a_csv_file_leads_to_an_onnx_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    write, read_onnx = code_blocks("docs/sequences.md", "python")
    run_block("python", write, tmp_path, environment)
    (commands,) = code_blocks("docs/sequences.md", "sh")
    output = run_block("sh", commands, tmp_path, environment)
    shown, predicted = code_blocks("docs/sequences.md", "text")
    assert agrees(output.replace(str(tmp_path), "/home/you"), shown), output
    assert run_block("python", read_onnx, tmp_path, environment) == predicted
    assert accuracy_of(tmp_path / "runs/waves") > 0.93


@pytest.mark.slow
def test_an_archive_file_leads_to_a_prediction(tmp_path: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest=wheel"]
    package = [*download, "aeon==1.6.0"]  # the command finds the file
    if subprocess.run(package, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("the package registry is not available")
    commands = code_blocks("docs/formats.md", "sh")
    (archive,) = (block for block in commands if "aeon" in block)
    output = run_block("sh", archive, tmp_path, dict(os.environ))
    assert "270 / 0 / 370 sequences" in output
    assert len(re.findall(r"JapaneseVowels_TEST.ts, sequence \d+: \d, ", output)) == 370
    assert accuracy_of(tmp_path / "runs/vowels") > 0.93


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    data, _, study = code_blocks("docs/tools.md", "python")
    pytest.importorskip("optuna")
    argv = [sys.executable, "-c", data + study]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment) as process:
        while not (tmp_path / "runs/trial3/metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    kept = tmp_path / "runs/trial1/metrics.jsonl"
    before = kept.stat().st_mtime_ns
    assert "learning_rate" in run_block("python", data + study, tmp_path, environment)
    assert (tmp_path / "runs/trial9/metrics.jsonl").exists()
    assert not (tmp_path / "runs/trial10").exists()
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    write, _ = code_blocks("docs/sequences.md", "python")
    page = code_blocks("docs/python.md", "python")
    output = run_block("python", "\n".join([write, *page]), tmp_path, environment)
    assert re.search(r"^\{'hidden_size': (8|64)\}$", output, re.M)  # of the search
    assert "('falling', 'rising')" in output


@pytest.mark.slow
def test_the_page_on_other_tools_runs(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Of its blocks, those whose packages are installed."""
    absent = [name for name in WRITTEN if find_spec(name) is None]
    page = code_blocks("docs/tools.md", "python")
    blocks = [block for block in page if not any(name in block for name in absent)]
    run_block("python", "\n".join(blocks), tmp_path, environment)
    for name, path in WRITTEN.items():
        assert len(list(tmp_path.glob(path))) == (name not in absent)


@pytest.mark.slow
def test_the_page_on_streams_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    (python,) = code_blocks("docs/streams.md", "python")
    run_block("python", python, tmp_path, environment)
    (commands,) = code_blocks("docs/streams.md", "sh")
    (shown,) = code_blocks("docs/streams.md", "text")
    printed = run_block("sh", commands, tmp_path, environment)
    assert agrees(printed, shown), printed
    steps = [json.loads(line)["step"] for line in printed.splitlines()]
    assert steps == [1, 2, 3]
