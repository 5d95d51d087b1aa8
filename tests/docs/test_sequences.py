"""The commands and Python of the pages on sequences run unchanged."""

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import agrees, code_blocks, run_block

import rnnmnist


def accuracy_of(workdir: Path) -> float:
    (result,) = (workdir / "evaluation").glob("test-*.json")
    return float(json.loads(result.read_text())["accuracy"])


def write_sensors(folder: Path) -> None:
    """Writes recordings of six people, with custom column names and empty cells."""
    generator = random.Random(0)
    with (folder / "sensors.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["recording_id", "timestamp", "person", "activity", "x"])
        for recording in range(120):
            activity = ("walking", "running")[recording % 2]
            for second in range(20):
                level = second * (1 + recording % 2) + generator.gauss(0, 1)
                cell = "" if generator.random() < 0.1 else f"{level:.2f}"
                time = f"2026-11-30 12:00:{second:02}"
                place = [f"R{recording}", time, f"P{recording // 20}"]
                writer.writerow([*place, activity, cell])


@pytest.mark.slow
def test_a_csv_file_leads_to_an_onnx_file(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    write, read_onnx = code_blocks("docs/sequences.md", "python")
    run_block("python", write, tmp_path, environment)
    commands, _ = code_blocks("docs/sequences.md", "sh")
    output = run_block("sh", commands, tmp_path, environment)
    shown, predicted = code_blocks("docs/sequences.md", "text")
    assert agrees(output.replace(str(tmp_path), "/home/you"), shown), output
    assert run_block("python", read_onnx, tmp_path, environment) == predicted
    assert accuracy_of(tmp_path / "runs/waves") > 0.93


@pytest.mark.slow
def test_a_file_with_custom_column_names_leads_to_predictions(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Predictions need only the sequence, time and feature columns, in any order."""
    write_sensors(tmp_path)
    _, commands = code_blocks("docs/sequences.md", "sh")
    printed = run_block("sh", commands, tmp_path, environment)
    assert "leave-one-group-out" in printed
    table = pd.read_csv(tmp_path / "sensors.csv").assign(battery=0.5)
    columns = ["battery", "x", "timestamp", "recording_id"]
    table[columns].to_csv(tmp_path / "new.csv", index=False)
    predict = "rnnmnist predict --workdir=runs/sensors --json new.csv"
    printed = run_block("sh", predict, tmp_path, environment)
    predictions = pd.read_json(io.StringIO(printed), lines=True)
    assert predictions["id"].tolist() == [f"R{index}" for index in range(120)]
    expected = ["walking", "running"] * 60
    assert (predictions["label"] == expected).mean() > 0.9


def test_a_folder_of_tables_becomes_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sensors(tmp_path)
    (tmp_path / "recordings").mkdir()
    sensors = pd.read_csv("sensors.csv")
    for recording, table in sensors.groupby("recording_id"):
        columns = table.drop(columns="recording_id")
        columns.to_csv(f"recordings/{recording}.csv", index=False)
    (block,) = code_blocks("docs/formats.md", "python")
    exec(block, {})
    columns = "time=timestamp,label=activity,groups=person"
    _, labels, _, ids = rnnmnist.read_sequences("recordings.csv", columns=columns)
    assert ids is not None
    assert labels is not None
    label_of = sensors.set_index("recording_id")["activity"].to_dict()
    assert dict(zip(ids, labels, strict=True)) == label_of


@pytest.mark.slow
def test_an_archive_file_leads_to_a_prediction(tmp_path: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest=wheel"]
    package = [*download, "aeon==1.6.0"]  # the command finds its data file
    online = os.environ | {"PYTHONPATH": ""}  # without `tests/every_process`
    if subprocess.run(
        package, cwd=tmp_path, env=online, capture_output=True
    ).returncode:
        pytest.skip("the package registry is not available")
    commands = code_blocks("docs/formats.md", "sh")
    (archive,) = (block for block in commands if "aeon" in block)
    output = run_block("sh", archive, tmp_path, online)
    assert "270 / 0 / 370 sequences" in output
    assert len(re.findall(r"JapaneseVowels_TEST.ts, sequence \d+: \d, ", output)) == 370
    assert accuracy_of(tmp_path / "runs/vowels") > 0.93


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    write_sensors(tmp_path)
    write, _ = code_blocks("docs/sequences.md", "python")
    page = code_blocks("docs/python.md", "python")
    output = run_block("python", "\n".join([write, *page]), tmp_path, environment)
    assert re.search(
        r"^\{'hidden_size': (8|64)\}$", output, re.M
    )  # the search's best size
    assert "('falling', 'rising')" in output


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_page_on_other_tools_runs(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("optuna")
    page = code_blocks("docs/tools.md", "python")
    run_block("python", "\n".join(page), tmp_path, environment)
    assert (tmp_path / "runs/trial2/metrics.jsonl").exists()


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
