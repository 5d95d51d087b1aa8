"""The pages' numbers are those of the files that the commands wrote."""

import ast
import json
import statistics
import subprocess
from pathlib import Path

import pytest
import robustness
import scaling
from support import REPOSITORY

import results
from rnnmnist.config.files import load_config
from rnnmnist.config.schema import Config, flatten
from rnnmnist.training.resume import FREE

FILES = sorted(
    path
    for path in (REPOSITORY / "results").glob("*.json")
    if path.stem != "gradients"  # of which tests/test_gradients.py says more
)


def test_the_page_on_scaling_shows_what_was_measured() -> None:
    page = scaling.PAGE.read_text()
    assert scaling.rendered(page) == page
    document = json.loads(scaling.NUMBERS.read_text())
    assert f"{document['floats'] - 2:,} parameters" in page
    assert f"{document['floats']:,} float32".replace(",", "") in page.replace(",", "")


@pytest.mark.slow
def test_what_scaling_measures_is_there_to_be_measured() -> None:
    for case in (scaling.TWO, scaling.Case(128, 2, processes=2)):
        found = scaling.measure_once(case)
        assert found["step"] > found["sum"] > 0


def test_the_page_on_pictures_shows_what_was_measured() -> None:
    page, document = robustness.PAGE.read_text(), robustness.NUMBERS.read_text()
    assert robustness.rendered(page, json.loads(document)) == page


def test_what_is_no_digit_is_mostly_said_to_be_none() -> None:
    refused = json.loads((REPOSITORY / "docs/predict.json").read_text())["refused"]
    rates = {name: own["refused"] / own["images"] for name, own in refused.items()}
    digits = [name for name in rates if name.startswith("test digits")]
    assert max(rates.pop(name) for name in digits) < 0.04
    assert min(rates.values()) > 0.5


def test_however_a_digit_is_drawn_it_is_read() -> None:
    variants = json.loads((REPOSITORY / "docs/predict.json").read_text())["variants"]
    assert variants.keys() == robustness.VARIANTS.keys()
    for name, counts in variants.items():
        assert counts["images"] == 10_000, name
        assert counts["prepared"] >= 9_750, name


def test_the_pages_show_what_was_measured() -> None:
    for page in results.PAGES:
        assert results.rendered(page) == (REPOSITORY / page).read_text(), page
    assert {path.stem for path in FILES} == {row.name for row in results.ROWS}


def test_each_step_of_the_ablation_changes_what_it_says() -> None:
    flat = [flatten(row.config().to_dict()) for row in results.ABLATION]
    for before, after, row in zip(flat, flat[1:], results.ABLATION[1:], strict=False):
        changed = {name for name in after if after[name] != before[name]}
        named = {word.split("=")[0] for word in row.own.split()}
        assert changed - FREE <= named, row.name
        for word in row.own.split():
            name, _, text = word.partition("=")
            assert str(after[name]) == text or after[name] == float(text), word
    assert flat[0] == flatten(load_config(REPOSITORY / "configs/tutorial.py").to_dict())
    assert flat[-1] == flatten(load_config(REPOSITORY / "configs/best.py").to_dict())


def test_what_was_tried_alone_is_the_default_run_but_for_that() -> None:
    default = load_config(REPOSITORY / "configs/default.py")
    for row in results.ALONE:
        same = dict.fromkeys(word.split("=")[0] for word in row.own.split())
        for name in same:
            same[name] = flatten(default.to_dict())[name]
        assert row.config().replace(same) == default


def test_the_records_are_reached() -> None:
    means = {path.stem: json.loads(path.read_text()) for path in FILES}
    for name, least in {"default": 0.9905, "best": 0.9955, "fashion": 0.91}.items():
        assert means[name]["accuracy_mean"] >= least
    assert means["best"]["num_parameters"] <= 150_000
    cells = [means[name]["accuracy_mean"] for name in ("rnn", "gru", "default")]
    assert min(cells) == cells[0] < cells[1] - 0.005  # as the tutorial says


@pytest.mark.slow
def test_a_row_is_measured_once(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    words = f"embedded train.num_steps=2 model.hidden_size=8 data.data_dir={data_dir}"
    for _ in range(2):  # the second time from what the first has left
        results.measure([results.Row("tiny", 2, words)], None)
        found = json.loads((tmp_path / "tiny.json").read_text())
        assert [member["seed"] for member in found["members"]] == [0, 1]
        for member in found["members"]:
            assert member["correct_after_rows"][-1] == member["correct"]
            assert member["seconds"] > 0
        (tmp_path / "tiny.json").unlink()
        monkeypatch.setattr(subprocess, "Popen", None)


def test_a_result_was_measured_with_todays_settings() -> None:
    places = set()
    for row in results.ROWS:
        result = json.loads((REPOSITORY / f"results/{row.name}.json").read_text())
        assert result["command"] == row.command
        assert Config.from_dict(result["config"]) == row.config()
        assert len(result["members"]) == row.seeds
        places.add(result["hardware"])
    assert len(places) == 1  # seconds beside each other are of one machine


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_results_numbers_follow_from_its_counts(path: Path) -> None:
    result = json.loads(path.read_text())
    members = result["members"]
    assert [member["seed"] for member in members] == list(range(len(members)))
    for member in members:
        confusion = member["confusion"]
        assert sum(map(sum, confusion)) == member["examples"] == result["examples"]
        trace = sum(row[label] for label, row in enumerate(confusion))
        assert member["correct"] == trace
    assert result["correct"] == sum(member["correct"] for member in members)
    shares = [member["correct"] / member["examples"] for member in members]
    assert result["accuracy_mean"] == pytest.approx(statistics.mean(shares))
    assert result["accuracy_std"] == pytest.approx(statistics.stdev(shares))
    assert result["examples"] == (500 if result["dataset"] == "mnist5k" else 10_000)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.py")))
def test_a_configurations_docstring_states_its_result(path: Path) -> None:
    result = json.loads((REPOSITORY / f"results/{path.stem}.json").read_text())
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text is not None
    mean, std = 100 * result["accuracy_mean"], 100 * result["accuracy_std"]
    assert f"{mean:.2f} ± {std:.2f} %" in text
    assert f"{len(result['members'])} seeds" in text
    assert f"{result['seconds']:.0f} s" in text
