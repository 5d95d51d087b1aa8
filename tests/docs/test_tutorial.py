"""The tutorial: its snippets run and print the output that the page shows."""

import ast
import builtins
import dataclasses
import symtable
from pathlib import Path
from typing import Any

import pytest
import tutorial
from support import REPOSITORY

from rnnmnist.config.schema import DataConfig
from rnnmnist.data import images
from rnnmnist.data.builder import MnistRows
from rnnmnist.data.preparation import prepared_builder

PAGE = tutorial.PAGE.read_text()


@pytest.fixture(autouse=True)
def in_a_clone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs snippets in the repository, with the tests' prepared data sets."""

    def prepared_here(config: DataConfig) -> MnistRows:
        return prepared_builder(dataclasses.replace(config, data_dir=str(data_dir)))

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(images, "prepared_builder", prepared_here)


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """Returns the global names that a snippet reads, also in its functions."""
    own = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_referenced()
        and (symbol.is_global() or table.get_type() == "module")
    }
    return own.union(*map(globals_of, table.get_children()))


def parts_of(node: ast.AST) -> list[str]:
    """Returns the parts of a dotted name; the first one is empty for other nodes."""
    if isinstance(node, ast.Attribute):
        return [*parts_of(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def missing_names(snippet: str, known: dict[str, Any]) -> set[str]:
    """Returns the names that a snippet uses and nothing defines, without running it.

    Args:
        snippet: Python code.
        known: the names that the snippets above define, with modules and classes as
            values where they are imported. The names of this snippet are added.
    """
    tree, table = ast.parse(snippet), symtable.symtable(snippet, "", "exec")
    for symbol in table.get_symbols():
        if symbol.is_assigned():
            known[symbol.get_name()] = None
    imports = [
        node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(list(imports), []), "", "exec"), known)
    missing = globals_of(table) - known.keys() - set(dir(builtins))
    for node in ast.walk(tree):
        root, *parts = parts_of(node)
        found = known.get(root)
        for length, part in enumerate(parts, 1):
            if found is not None and not hasattr(found, part):
                missing.add(".".join([root, *parts[:length]]))
            found = getattr(found, part, None)
    return missing


def test_every_snippet_compiles_and_uses_existing_names() -> None:
    known: dict[str, Any] = {}
    for found in tutorial.SNIPPET.finditer(PAGE):
        assert missing_names(found[1], known) == set(), found[1]
    assert {"jax", "lstm_cell", "train_steps", "measured"} <= known.keys()


@pytest.mark.parametrize(
    ("snippet", "missing"),
    [
        ("print(nothing)", {"nothing"}),
        ("def f(x):\n    return [x + y + nothing for y in x]", {"nothing"}),
        ("import json\njson.dumps(json.nothing.more)", {"json.nothing"}),
        ("given = 1\nprint(given, before, json.loads)", set()),
    ],
)
def test_a_missing_name_is_found(snippet: str, missing: set[str]) -> None:
    import json

    assert missing_names(snippet, {"before": None, "json": json}) == missing


def test_a_wrong_import_or_syntax_is_an_error() -> None:
    with pytest.raises(ImportError, match="nothing"):
        missing_names("from rnnmnist.training.step import nothing", {})
    with pytest.raises(SyntaxError):
        missing_names("print(", {})


@pytest.mark.slow  # half a minute: it trains
def test_every_snippet_prints_the_output_that_the_page_shows() -> None:
    assert tutorial.render(PAGE) == PAGE


def test_every_python_block_is_a_snippet() -> None:
    assert len(tutorial.SNIPPET.findall(PAGE)) == PAGE.count("```python") > 20


def test_a_wrong_output_is_replaced() -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert tutorial.render(page) == page.replace("3", "2")


def test_an_error_names_the_line_of_the_page() -> None:
    page = "Words.\n\n```python\nx = 1\nraise RuntimeError\n```\n"
    with pytest.raises(RuntimeError) as caught:
        tutorial.render(page)
    assert caught.traceback[-1].lineno + 1 == 5  # pytest counts from 0


def test_the_page_has_the_markers_of_its_tables() -> None:
    for name in ("cells", "ablation"):
        assert PAGE.count(f"<!-- {name} -->\n") == PAGE.count(f"<!-- /{name} -->") == 1
