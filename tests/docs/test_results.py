"""The published results: their pages, models and measurement."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import render_pages
import result_files
from support import REPOSITORY

import results
import rnnmnist
from rnnmnist.models.parameters import params_sha256
from rnnmnist.runtime.mesh import split_ensemble


def read(path: str) -> dict[str, Any]:
    return json.loads((REPOSITORY / path).read_text())


def test_the_pages_contain_the_current_tables() -> None:
    for page in render_pages.PAGES:
        assert render_pages.render(page) == (REPOSITORY / page).read_text()


def test_the_reference_models_match_the_published_results() -> None:
    """They are also small, and the wheel contains them."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    for row in results.REFERENCES:
        (member,) = read(f"results/{row.name}.json")["members"]
        folder = f"checkpoints/{row.name}/{member['step']}"
        assert folder in wheel["force-include"]
        files = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 700_000
        model = rnnmnist.load(REPOSITORY / f"checkpoints/{row.name}")
        (params,) = split_ensemble(model.params)
        assert params_sha256(params) == member["params_sha256"]


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized_commands")
def test_a_row_of_the_results_is_measured_once(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    settings = (
        f"embedded train.num_steps=2 model.hidden_size=8 data.data_dir={data_dir}"
    )
    row = results.Row("tiny", 2, settings)
    monkeypatch.setattr(results, "REFERENCES", (row,))
    for _ in range(2):  # the second iteration reuses the runs of the first
        results.measure([row], None)
        found = json.loads((tmp_path / "tiny.json").read_text())
        assert [member["seed"] for member in found["members"]] == [0, 1]
        for member in found["members"]:
            assert member["correct_by_time"][-1] == member["correct"]
            assert member["seconds"] > 0
        (tmp_path / "tiny.json").unlink()
        monkeypatch.setattr(subprocess, "Popen", None)
