"""The notebooks of the tutorial. The documentation build executes the pages."""

import ast
import re
from pathlib import Path

import pytest
import tutorial
from support import REPOSITORY


@pytest.mark.parametrize("page", tutorial.PAGES, ids=lambda page: page.stem)
def test_the_notebook_is_converted_from_the_page(page: Path) -> None:
    """The notebook does not contain the page's hidden checks."""
    text = tutorial.notebook_of(page).read_text()
    assert tutorial.convert(page) == text
    assert "assert" not in text
    assert tutorial.CODE not in text


def definitions(code: str) -> dict[str, str]:
    """Returns the code of each function and class, by name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(code).body
    return {node.name: ast.unparse(node) for node in body if isinstance(node, kinds)}


def test_the_setup_of_the_later_parts_has_the_functions_of_part_1() -> None:
    setup = definitions((REPOSITORY / "docs/tutorial_setup.py").read_text())
    text = tutorial.PAGES[0].read_text()
    cells = re.findall(r"```{code-cell}\n((?!:).*?)\n```", text, re.DOTALL)
    assert len(setup) > 5
    assert setup.items() <= definitions("\n".join(cells)).items()
