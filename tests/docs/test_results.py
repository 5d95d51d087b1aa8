"""The pages match the result files, and these match the configurations."""

import ast
import json
import statistics
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import folds
import msgspec
import numpy as np
import pytest
import render_pages
import result_tables
from support import REPOSITORY

import results
from rnnmnist import Predictor
from rnnmnist.config.files import load_config
from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import SETTINGS, Config
from rnnmnist.config.tasks import Task
from rnnmnist.data.image_sets import image_task
from rnnmnist.runs.checkpoints import params_sha256
from rnnmnist.runtime.mesh import split_ensemble


def read(path: str) -> dict[str, Any]:
    return json.loads((REPOSITORY / path).read_text())


@pytest.mark.parametrize("page", render_pages.PAGES)
def test_a_page_contains_the_current_tables(page: str) -> None:
    assert render_pages.render(page) == (REPOSITORY / page).read_text()


@pytest.mark.parametrize("path", render_pages.PLOTS)
def test_a_plot_is_drawn(path: str) -> None:
    assert (REPOSITORY / path).exists()
    assert render_pages.PLOTS[path]().startswith(b"\x89PNG")


def test_every_row_has_a_file_and_every_file_is_used() -> None:
    files = {path.stem for path in (REPOSITORY / "results").glob("*.json")}
    tools = {
        "baselines",
        "crossover",
        "few_sequences",
        "folds",
        "robustness",
        "vanishing",
    }
    assert files == results.ROWS.keys() | tools


def test_the_reference_models_are_those_of_the_rows() -> None:
    """And are small enough, and in the wheel."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    for row in results.REFERENCES:
        (member,) = read(f"results/{row.name}.json")["members"]
        folder = f"checkpoints/{row.name}/{member['step']}"
        assert folder in wheel["force-include"]
        files = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 700_000
        (params,) = split_ensemble(
            Predictor(REPOSITORY / f"checkpoints/{row.name}").params
        )
        assert params_sha256(params) == member["params_sha256"]


def test_each_row_of_the_ablation_has_the_changes_that_it_lists() -> None:
    flat = [settings_of(row.config()) for row in results.ABLATION]
    for before, after, row in zip(flat, flat[1:], results.ABLATION[1:], strict=False):
        changed = {name for name in after if after[name] != before[name]}
        listed = dict(override.split("=") for override in row.change.split())
        allowed = {name for name in changed if SETTINGS[name].resume == "allowed"}
        assert changed - allowed - {"tutorial_128"} <= listed.keys(), row.name
        for name, text in listed.items():
            assert str(after[name]) == text or after[name] == float(text), name
    for values, name in ((flat[0], "tutorial"), (flat[-1], "best")):
        config = load_config(REPOSITORY / f"configs/{name}.py")
        assert values == settings_of(config)


def test_a_single_change_is_the_only_difference_from_the_default_run() -> None:
    default = load_config(REPOSITORY / "configs/default.py")
    values = default.flat()
    for row in results.SINGLE_CHANGES:
        names = [override.split("=")[0] for override in row.change.split()]
        config = row.config().replace({name: values[name] for name in names})
        assert settings_of(config) == settings_of(default)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized_commands")
def test_a_row_is_measured_once(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    settings = (
        f"embedded train.num_steps=2 model.hidden_size=8 data.data_dir={data_dir}"
    )
    for _ in range(2):  # the second iteration reuses the runs of the first
        results.measure([results.Row("tiny", 2, settings)], None)
        found = json.loads((tmp_path / "tiny.json").read_text())
        assert [member["seed"] for member in found["members"]] == [0, 1]
        for member in found["members"]:
            assert member["correct_after_steps"][-1] == member["correct"]
            assert member["seconds"] > 0
        (tmp_path / "tiny.json").unlink()
        monkeypatch.setattr(subprocess, "Popen", None)


def settings_of(config: Config, task: Task | None = None) -> dict[str, object]:
    """The settings of a run with their defaults, by default of one on images.

    The interval of training lines, which changes no result, is its default.
    """
    config = config.replace({"train.log_every_steps": None})
    return fill_defaults(config, task or image_task(config.data)).flat()


@pytest.mark.parametrize("name", results.ROWS)
def test_a_result_was_measured_with_the_current_settings(name: str) -> None:
    result, row = read(f"results/{name}.json"), results.ROWS[name]
    assert result["name"] == name
    assert result["command"] == row.command
    measured = Config.from_dict(result["config"])
    task = None
    if measured.data.name == "files":
        task = msgspec.convert(result["members"][0]["task"], Task)
    assert settings_of(measured, task) == settings_of(row.config(), task)
    seeds = [member["seed"] for member in result["members"]]
    assert seeds == list(range(row.seeds))


@pytest.mark.parametrize("name", results.ROWS)
def test_a_result_is_consistent_with_its_counts(name: str) -> None:
    result = read(f"results/{name}.json")
    members, accuracies = result["members"], list[float]()
    for member in members:
        assert member["examples"] == result["examples"]
        accuracies.append(member["correct"] / member["examples"])
        if confusion := member.get("confusion"):
            assert sum(map(sum, confusion)) == member["examples"]
            trace = sum(row[label] for label, row in enumerate(confusion))
            assert member["correct"] == trace
            if result["config"]["data"]["name"] != "files":
                whole = 500 if result["dataset"] == "mnist5k" else 10_000
                assert member["examples"] == whole
    assert result["correct"] == sum(member["correct"] for member in members)
    assert result["accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
    spread = pytest.approx(statistics.stdev(accuracies)) if members[1:] else None
    assert result["accuracy_std"] == spread


def test_all_classifiers_have_the_sequences_of_the_archive() -> None:
    baselines = read("results/baselines.json")["datasets"]
    assert {label: found["examples"] for label, found in baselines.items()} == {
        row.label: read(f"results/{row.name}.json")["examples"]
        for row in results.ARCHIVE
    }
    for found in read("results/folds.json").values():
        for key, sets in found.items():
            for name, counts in sets.items():
                task = read(f"results/archive_{name}.json")["members"][0]["task"]
                assert sum(counts["examples"]) == task["examples"]["train"]
                assert key.startswith(f"{len(counts['examples'])} folds")


def test_folds_have_equal_numbers_of_each_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 20, 5]))
    first, second = (folds.Folds(Path(), 5, seed).divide(labels) for seed in (0, 1))
    for divided in (first, second):
        for label, number in enumerate((2, 4, 1)):
            in_fold = np.bincount(divided[labels == label], minlength=5)
            np.testing.assert_array_equal(in_fold, number)
    assert (first != second).any()


# All but that of a user's own data.
MEASURED = sorted(
    path for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "files"
)


@pytest.mark.parametrize("path", MEASURED)
def test_a_configurations_docstring_states_its_result(path: Path) -> None:
    result = read(f"results/{path.stem}.json")
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text is not None
    assert result_tables.accuracy_over_seeds(result) in text
    assert f"{len(result['members'])} seeds" in text
    assert f"{result['seconds']:.0f} s" in text
