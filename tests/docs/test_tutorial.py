"""The notebooks of the tutorial. The documentation build executes its pages."""

import re
from pathlib import Path

import nbformat
import pytest
import tutorial

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
    assert "assert" not in text
    assert tutorial.CODE not in text


@each_page
def test_an_exercise_has_an_empty_cell_and_an_answer_that_is_not_run(
    page: Path,
) -> None:
    notebook = nbformat.read(tutorial.notebook_of(page), as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    text = page.read_text()
    assert cells.count("# Your turn") == text.count(tutorial.ANSWER) > 1
    folded = "".join(tutorial.FOLDED.findall(text))
    blocks = re.findall(r"```{code-cell}\n(.*?)\n```", folded, re.DOTALL)
    assert len(blocks) > 1
    assert not set(blocks) & set(cells)
