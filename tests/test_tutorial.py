"""The tutorial: its snippets run, and print what stands below them."""

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
from rnnmnist.data import datasets
from rnnmnist.data.builder import MnistRows
from rnnmnist.data.preparation import prepared_builder

PAGE = tutorial.PAGE.read_text()


@pytest.fixture(autouse=True)
def in_a_clone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the predictor's `python`, but for where TFDS prepares data."""

    def prepared_here(config: DataConfig) -> MnistRows:
        return prepared_builder(dataclasses.replace(config, data_dir=str(data_dir)))

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(datasets, "prepared_builder", prepared_here)


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """The global names that a snippet reads, in its functions too."""
    own = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_referenced()
        and (symbol.is_global() or table.get_type() == "module")
    }
    return own.union(*map(globals_of, table.get_children()))


def parts_of(node: ast.AST) -> list[str]:
    """Of `jax.nn.relu` all three, and of what is no such name an empty one."""
    if isinstance(node, ast.Attribute):
        return [*parts_of(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def missing_names(snippet: str, known: dict[str, Any]) -> set[str]:
    """The names that a snippet uses and that nothing defines, without running it.

    Args:
        snippet: Python.
        known: what the snippets above it define, a module or class if they import it.
            What this one defines is added.
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
        for place, part in enumerate(parts, 1):
            if found is not None and not hasattr(found, part):
                missing.add(".".join([root, *parts[:place]]))
            found = getattr(found, part, None)
    return missing


def test_every_snippet_compiles_and_uses_what_there_is() -> None:
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
def test_a_wrong_name_is_seen(snippet: str, missing: set[str]) -> None:
    import json

    assert missing_names(snippet, {"before": None, "json": json}) == missing


def test_a_wrong_import_or_syntax_is_seen() -> None:
    with pytest.raises(ImportError, match="nothing"):
        missing_names("from rnnmnist.training.step import nothing", {})
    with pytest.raises(SyntaxError):
        missing_names("print(", {})


@pytest.mark.slow  # half a minute: it trains
def test_every_snippet_prints_what_stands_below_it() -> None:
    assert tutorial.rendered(PAGE) == PAGE


def test_every_python_block_is_a_snippet() -> None:
    assert len(tutorial.SNIPPET.findall(PAGE)) == PAGE.count("```python") > 20


def test_a_wrong_output_is_seen() -> None:
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert tutorial.rendered(page) == page.replace("3", "2")


def test_an_error_names_the_line_of_the_page() -> None:
    page = "Words.\n\n```python\nx = 1\nraise RuntimeError\n```\n"
    with pytest.raises(RuntimeError) as caught:
        tutorial.rendered(page)
    assert caught.traceback[-1].lineno + 1 == 5  # of pytest, from 0


def test_the_tables_have_their_places() -> None:
    for name in ("cells", "ablation"):
        assert PAGE.count(f"<!-- {name} -->\n") == PAGE.count(f"<!-- /{name} -->") == 1
