"""Links from pages to other pages and to files of the repository."""

import re
from pathlib import Path

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
