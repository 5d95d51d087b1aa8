"""The notebooks of the tutorial. The documentation build executes the pages."""

import ast
import re
from pathlib import Path

import jax
import pytest
import tutorial
import tutorial_seeds
from support import REPOSITORY

each_page = pytest.mark.parametrize("page", tutorial.PAGES, ids=lambda page: page.stem)


@each_page
def test_the_notebook_is_converted_from_the_page(page: Path) -> None:
    """The notebook does not contain the page's hidden checks."""
    text = tutorial.notebook_of(page).read_text()
    assert tutorial.convert(page) == text
    assert "assert" not in text
    assert tutorial.CODE not in text


def test_a_page_runs_with_another_seed_and_its_checks_are_run(tmp_path: Path) -> None:
    code = "import jax\nnumber = jax.random.uniform(jax.random.key(1))"
    cells = (f"{tutorial.CODE}\n{text}\n```\n" for text in (code, ":load: check.py"))
    (tmp_path / "page.md").write_text("\n".join(cells))
    (tmp_path / "check.py").write_text("assert number < 0.5\n")
    numbers = [jax.random.uniform(jax.random.key(1 + added)) for added in range(9)]
    low, high = numbers.index(min(numbers)), numbers.index(max(numbers))
    names = tutorial_seeds.run_page(tmp_path / "page.md", low)
    assert names["number"] == numbers[low]
    with pytest.raises(AssertionError):
        tutorial_seeds.run_page(tmp_path / "page.md", high)


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
