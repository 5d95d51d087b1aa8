"""The page on the architecture: its reading order."""

import re

import pytest
from support import REPOSITORY

PAGE = REPOSITORY / "docs/architecture.md"


def test_the_files_to_read_first_have_about_the_stated_number_of_lines() -> None:
    section = PAGE.read_text().split("\n## ")[1]
    stated = re.search(r"about ([\d,]+) lines", section)
    assert stated
    files = re.findall(r"^\d\. \[`\S+`\]\(\.\./(\S+)\)", section, re.MULTILINE)
    assert len(files) == 9
    lines = sum(len((REPOSITORY / file).read_text().splitlines()) for file in files)
    assert lines == pytest.approx(int(stated[1].replace(",", "")), rel=0.1)
