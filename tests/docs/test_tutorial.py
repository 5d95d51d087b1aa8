"""The tutorial: its notebook and its plot. The documentation build executes it."""

import json
import re
from typing import Any

import numpy as np
import result_tables
import tutorial
from support import REPOSITORY

import results

PAGE = tutorial.PAGE.read_text()


def read(name: str) -> Any:
    return json.loads((REPOSITORY / "results" / f"{name}.json").read_text())


def test_the_notebook_has_the_cells_of_the_page() -> None:
    assert tutorial.convert(PAGE) == tutorial.NOTEBOOK.read_text()


def test_the_notebook_contains_no_relative_link_and_no_hidden_check() -> None:
    text = tutorial.NOTEBOOK.read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) > 10
    assert all(link.startswith("https://") for link in links)
    assert "assert" in PAGE
    assert "assert" not in text
    assert text.count("# @title Answer") == PAGE.count(tutorial.ANSWER) == 4
    assert "details>" not in text


def test_links_and_images_become_absolute() -> None:
    text = "![a](a.svg) [b](b.md#c) [d](../e.py) [f](#g) [h](https://i)"
    assert tutorial.absolute_links(text) == (
        f"![a]({tutorial.RAW}a.svg?sanitize=true) "
        f"[b]({tutorial.GITHUB}/blob/main/docs/b.md#c) "
        f"[d]({tutorial.GITHUB}/blob/main/e.py) "
        f"[f]({tutorial.GITHUB}/blob/main/docs/tutorial.md#g) [h](https://i)"
    )


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


def test_a_difference_is_bold_if_its_interval_excludes_zero() -> None:
    (line,) = (
        line
        for line in result_tables.differences(results.ABLATION).splitlines()
        if line.startswith("| cosine decay")
    )
    assert "**+1.36 (+0.90 to +1.82)**" in line
