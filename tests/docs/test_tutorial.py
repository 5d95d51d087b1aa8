"""The tutorial: its notebook and its numbers. The documentation build executes it."""

import json
import re
import statistics
from typing import Any

import numpy as np
import result_tables
import tutorial
from support import REPOSITORY

import results

PAGE = tutorial.PAGE.read_text()
PROSE = " ".join(PAGE.split())


def read(name: str) -> Any:
    return json.loads((REPOSITORY / "results" / f"{name}.json").read_text())


def relative_gradient(cell: str, when: str) -> np.ndarray:
    """The median over images at each row, in % of that at row 28."""
    vanishing = read("vanishing")
    assert vanishing["quantiles"][1] == 0.5
    (run,) = (
        run
        for run in vanishing["runs"]
        if (run["recurrence"], run["steps"]) == (cell, 28)
    )
    return 100 * np.array(run[when][1])


def test_the_notebook_has_the_cells_of_the_page() -> None:
    assert tutorial.convert(PAGE) == tutorial.NOTEBOOK.read_text()


def test_the_page_quotes_the_current_loop() -> None:
    assert tutorial.quote_loop(PAGE) == PAGE
    assert all(f"def {name}(" in PAGE for name in tutorial.QUOTED)


def test_the_notebook_contains_no_relative_link_and_no_hidden_check() -> None:
    text = tutorial.NOTEBOOK.read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)
    assert "assert" in PAGE
    assert "assert" not in text
    assert text.count("# @title Answer") == PAGE.count("[hide-cell]") == 5


def test_links_and_images_become_absolute() -> None:
    text = "![a](a.svg) [b](b.md#c) [d](../e.py) [f](#g) [h](https://i)"
    assert tutorial.absolute_links(text) == (
        f"![a]({tutorial.RAW}a.svg?sanitize=true) "
        f"[b]({tutorial.GITHUB}/blob/main/docs/b.md#c) "
        f"[d]({tutorial.GITHUB}/blob/main/e.py) "
        f"[f]({tutorial.GITHUB}/blob/main/docs/tutorial.md#g) [h](https://i)"
    )


def test_accuracies_are_those_of_the_result_files() -> None:
    shortest = {
        run["recurrence"]: statistics.mean(run["correct"]) / 100
        for run in read("vanishing")["runs"]
        if run["steps"] == 28
    }
    assert f"the basic cell classifies {shortest['rnn']:.2f} %" in PROSE
    assert f"and the LSTM {shortest['lstm']:.2f} %" in PROSE
    longest = {
        run["recurrence"]: run["correct"][0] / 100
        for run in read("vanishing")["runs"]
        if run["steps"] == 784
    }
    assert f"784 time steps: {longest['rnn']} % are correct" in PROSE
    assert f"The GRU has {longest['gru']} %" in PROSE
    assert f"initialization {longest['lstm']} %" in PROSE
    assert f"has {longest['lstm, chrono']} %" in PROSE
    assert f"linear-in-the-state), {longest['lru']} %" in PROSE


def test_counts_and_seeds_are_those_of_the_2016_recipe() -> None:
    members = read("tutorial")["members"]
    first = members[0]["tutorial_128"]
    whole = f"({members[0]['correct']:_}, {members[0]['examples']:_})"
    assert f"(({first['correct']}, {first['examples']}), {whole})" in PAGE
    assert f"np.array({[member['accuracy'] for member in members]})" in PAGE


def test_the_gradients_at_each_row_are_as_described() -> None:
    gru, basic, lstm = (
        relative_gradient(cell, "before") for cell in ("gru", "rnn", "lstm")
    )
    factors = gru[1:] / gru[:-1]
    assert f"a factor of {factors.min():.1f} to {factors.max():.1f} per row" in PROSE
    assert f"scale, to {gru[0]:.2f} % at row 1" in PROSE
    assert f"worst: {basic[0]:.2f} % remain" in PROSE
    assert f"one half, {lstm[0]:.2f} % remain" in PROSE
    gru, basic, lstm = (
        relative_gradient(cell, "after") for cell in ("gru", "rnn", "lstm")
    )
    assert f"the LSTM is at least {lstm.min():.0f} %" in PROSE
    assert f"the GRU at least {gru.min():.0f} % of that" in PROSE
    assert f"falls to {basic.min():.0f} % at row {1 + basic.argmin()}." in PROSE


def test_the_ablation_describes_each_step_of_its_table() -> None:
    text = PAGE[PAGE.index("## Ablation") : PAGE.index("## Exercises")]
    table, description = text.split("<!-- /ablation -->")
    steps = re.findall(r"\+\S+ \(\S+ to \S+\)|-\S+ \(\S+ to \S+\)", table)
    assert len(steps) == len(results.ABLATION) - 1
    for step in steps:
        difference = step.split()[0]
        noise = step.replace("(", "").replace(")", "").replace(" ", "; ", 1)
        excludes_zero = f"**{step}**" in table
        expected = f": {difference}" if excludes_zero else f"within noise ({noise})"
        flat = " ".join(description.split()).replace(" on test (", " (")
        assert expected in flat, step


def test_the_other_numbers_of_the_ablation() -> None:
    names = ("default", "ablation_affine")
    means = [result_tables.mean_validation(read(name)) for name in names]
    assert f"from {means[0].removesuffix(' %')} to {means[1]}" in PROSE
    ratio = read("ablation_size")["num_parameters"] / read("default")["num_parameters"]
    assert f"for {ratio:.1f} times the parameters" in PROSE


def test_the_picture_shows_the_error_of_every_row_and_seed() -> None:
    (axes,) = result_tables.ablation_figure().axes
    seeds = [np.sort(np.asarray(line.get_xdata())) for line in axes.lines]
    shown = [errors for errors in seeds if len(errors) > 2]
    expected = []
    for row in results.ABLATION:
        accuracies = [member["accuracy"] for member in read(row.name)["members"]]
        expected.append(np.sort(100 * (1 - np.array(accuracies))))
    assert len(shown) == len(axes.get_yticklabels()) == len(results.ABLATION)
    for found, errors in zip(shown, expected, strict=True):
        np.testing.assert_allclose(found, errors)


def test_no_row_of_the_ablation_lowers_the_validation_accuracy() -> None:
    files = [read(row.name)["members"] for row in results.ABLATION]
    means = [
        np.mean([member["validation_correct"] for member in members])
        for members in files
    ]
    shown = np.round(np.array(means) / 50, 2)  # in %, as the table shows them
    assert (np.diff(shown) >= 0).all()


def test_a_difference_is_bold_if_its_interval_excludes_zero() -> None:
    (line,) = (
        line
        for line in result_tables.differences(results.ABLATION).splitlines()
        if line.startswith("| cosine decay")
    )
    assert "**+1.36 (+0.90 to +1.82)**" in line
