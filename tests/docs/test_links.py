"""Links from pages to other pages and to files of the repository."""

import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from support import REPOSITORY

PAGES = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/*.md"),
    *REPOSITORY.glob("benchmarks/*.md"),
    *REPOSITORY.glob("notebooks/*.ipynb"),
]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)


def without_code(page: Path) -> str:
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return BLOCK.sub("", text)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_targets_of_a_pages_links_exist(page: Path) -> None:
    for inline, reference in LINK.findall(without_code(page)):
        link = inline or reference
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in anchors(target), link


def test_only_pyproject_contains_the_addresses_of_the_repository_and_the_site() -> None:
    """Each address occurs once, so that a fork, or a new host, changes one line."""
    table = REPOSITORY / "pyproject.toml"
    urls = tomllib.loads(table.read_text())["project"]["urls"]
    # `/OWNER/NAME` is also part of addresses of raw files and of Colab.
    marks = [urlsplit(urls["Repository"]).path, urlsplit(urls["Documentation"]).netloc]
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True
    )
    files = [REPOSITORY / name.decode() for name in listed.stdout.split(b"\0")[:-1]]
    assert table in files
    for mark in marks:
        found = {
            str(file.relative_to(REPOSITORY)): count
            for file in files
            if file.is_file() and (count := file.read_bytes().count(mark.encode()))
        }
        assert found == {"pyproject.toml": 1}
