"""The tutorial: its snippets run, and print what stands below them."""

import dataclasses
from pathlib import Path

import pytest
import tutorial
from support import REPOSITORY

from rnnmnist import data
from rnnmnist.config import DataConfig
from rnnmnist.datasets.preparation import MnistRows, prepared_builder

PAGE = tutorial.PAGE.read_text()


@pytest.fixture(autouse=True)
def in_a_clone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reader's `python`, but for where TFDS prepares data."""

    def prepared_here(config: DataConfig) -> MnistRows:
        return prepared_builder(dataclasses.replace(config, data_dir=str(data_dir)))

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(data, "prepared_builder", prepared_here)


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
    for name in ("cells", "ladder"):
        assert PAGE.count(f"<!-- {name} -->\n") == PAGE.count(f"<!-- /{name} -->") == 1
