"""The tutorial's notebooks and a plot. The documentation build executes its pages."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import result_tables
import tutorial
from support import REPOSITORY

import results


def read(name: str) -> Any:
    return json.loads((REPOSITORY / "results" / f"{name}.json").read_text())


def code_cells(page: Path) -> list[str]:
    notebook = nbformat.read(tutorial.notebook_of(page), as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


each_page = pytest.mark.parametrize("page", tutorial.PAGES, ids=lambda page: page.stem)


@each_page
def test_the_notebook_has_the_cells_of_the_page(page: Path) -> None:
    assert tutorial.convert(page) == tutorial.notebook_of(page).read_text()


@each_page
def test_the_notebook_contains_no_relative_link_and_no_hidden_check(page: Path) -> None:
    text = tutorial.notebook_of(page).read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) > 5
    assert all(link.startswith("https://") for link in links)
    assert "assert" in page.read_text()
    assert "assert" not in text
    assert tutorial.CODE not in text


@each_page
def test_an_exercise_has_an_empty_cell_and_an_answer_that_is_not_run(
    page: Path,
) -> None:
    cells = code_cells(page)
    text = page.read_text()
    assert cells.count("# Your turn") == text.count(tutorial.ANSWER) > 2
    folded = "".join(tutorial.FOLDED.findall(text))
    blocks = re.findall(r"```{code-cell}\n(.*?)\n```", folded, re.DOTALL)
    assert len(blocks) > 2
    assert not set(blocks) & set(cells)


def test_links_and_images_become_absolute() -> None:
    text = "![a](a.svg) [b](b.md#c) [d](../e.py) [f](#g) [h](https://i)"
    assert tutorial.absolute_links(text, "page") == (
        f"![a]({tutorial.RAW}a.svg?sanitize=true) "
        f"[b]({tutorial.SITE}b.html#c) "
        f"[d]({tutorial.GITHUB}/blob/main/e.py) "
        f"[f]({tutorial.SITE}page.html#g) [h](https://i)"
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
