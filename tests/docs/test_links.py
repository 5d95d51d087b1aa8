"""The links of the pages to each other and to files of the repository."""

import re
from pathlib import Path

import pytest
from support import REPOSITORY

PAGES = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/*.md"),
    *REPOSITORY.glob("benchmarks/*.md"),
]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)


def without_code(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings
    }


SITE = re.compile(r"https://rnnmnist\.github\.io/rnnmnist/(\w+)\.html(?:#(\S+))?")
# Pages of the site that are not written in Markdown.
GENERATED = {"draw"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_targets_of_a_pages_links_exist(page: Path) -> None:
    for inline, reference in LINK.findall(without_code(page)):
        link = inline or reference
        if on_site := SITE.fullmatch(link):
            name, anchor = on_site.groups()
            if name in GENERATED:
                continue
            link = f"{REPOSITORY}/docs/{name}.md" + (f"#{anchor}" if anchor else "")
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in anchors(target), link
