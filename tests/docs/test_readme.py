"""The commands of the README and of the pages on commands run as they are written."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from support import REPOSITORY, Command

import rnnmnist
from rnnmnist.config.platforms import (
    DEFAULTS,
    LINEAR_REMAT_STEPS,
    MOST_CPU_DEVICES,
)
from rnnmnist.config.schema import SETTINGS

README = (REPOSITORY / "README.md").read_text()
COMMANDS = (REPOSITORY / "docs/commands.md").read_text()
DEVICES = (REPOSITORY / "docs/devices.md").read_text()
HOME = "/home/you"  # the home directory in the README's output
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of commands and the output that the page shows below it."""

    language: str  # sh or python
    text: str
    shown: str | None


def blocks(page: str) -> list[Block]:
    """Returns a page's command blocks; a text block is the output of the one above."""
    found: list[Block] = []
    for language, text in FENCE.findall(page):
        if language == "text":
            assert found[-1].shown is None, "a block has two outputs"
            found[-1] = found[-1]._replace(shown=text)
        else:
            assert language in ("sh", "python")
            found.append(Block(language, text, None))
    return found


def agrees(printed: str, shown: str) -> bool:
    """Returns whether an output ends as a page shows it.

    A line `...` matches any lines, and a number matches any number, since results,
    durations and the number of devices depend on the machine.
    """
    lines = []
    for line in shown.splitlines(keepends=True):
        texts = re.split(r"\d[\d,.]*", line.replace("devices", "device"))
        numbers = r"\d[\d,.]*".join(map(re.escape, texts))
        lines.append("(?:.*\n)*?" if line == "...\n" else numbers)
    pattern = re.compile(rf"^{''.join(lines)}\Z", re.MULTILINE)
    return pattern.search(printed.replace("devices", "device")) is not None


def copy_clone(target: Path) -> None:
    """Copies the tracked files of the repository and adds a `.venv/bin/python`."""
    checkpoints = REPOSITORY / "checkpoints"

    def untracked(folder: str, names: list[str]) -> set[str]:
        ignored = {"__pycache__"}
        if Path(folder) == REPOSITORY:
            ignored |= {name for name in names if name.startswith(".")}
        if Path(folder) == checkpoints:
            ignored |= {name for name in names if not name.startswith("reference")}
        if Path(folder).parent == checkpoints:
            ignored |= {"evaluation", "report"}
        return ignored

    shutil.copytree(REPOSITORY, target, ignore=untracked)
    python = target / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)


def test_the_first_two_commands_are_one_line_each() -> None:
    first, second = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:2]
    for text in (first, second):
        assert text.count("\n") == 1
        assert text.startswith("python3 -m venv .venv && ")
    assert first.endswith("python -m rnnmnist.main\n")
    assert second.endswith("python -m pytest\n")


@pytest.mark.slow
def test_the_command_blocks_run_in_order_in_one_clone(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Except the installation and the tests, which `.ci/run` runs."""
    clone = tmp_path / "rnnmnist"
    copy_clone(clone)
    first, second, *rest = blocks(README)
    first = first._replace(text=first.text.split(" && ")[-1])
    assert second.shown is None
    for language, text, shown in (first, *rest):
        shell = ["bash", "-ec"] if language == "sh" else [".venv/bin/python", "-c"]
        finished = subprocess.run(
            [*shell, text],
            cwd=clone,
            env=environment | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, f"{text}\n{finished.stderr}"
        if shown is None:
            continue
        printed = finished.stdout.replace(str(tmp_path), HOME)
        same = agrees(printed, shown) if "rnnmnist.main" in text else printed == shown
        assert same, f"{text}\n{printed}"


def test_the_readme_has_commands_of_every_kind() -> None:
    found = blocks(README)
    assert {block.language for block in found} == {"sh", "python"}
    assert sum(block.shown is not None for block in found) >= 5
    for name in ("main", "evaluate", "report", "predict", "verify", "page"):
        command = f".venv/bin/python -m rnnmnist.{name}"
        assert any(command in block.text for block in found), name


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("before\na 1 device\nb\nc\nend 2.5 %\n", True),
        ("a 12 devices\nend 3,000 %\n", True),
        ("a 1 device\nend 2.5 %\nafter\n", False),
        ("a one device\nend 2.5 %\n", False),
        ("end 2.5 %\n", False),
    ],
)
def test_an_output_agrees_except_for_its_numbers(printed: str, same: bool) -> None:
    assert agrees(printed, "a 2 devices\n...\nend 97.5 %\n") == same


@pytest.mark.slow
@pytest.mark.parametrize("page", ["api", "drawing_page"])
def test_the_python_blocks_of_a_page_run(
    page: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    finished = subprocess.run(
        [sys.executable, "-c", python_of(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr


def test_the_page_on_the_api_shows_every_public_name_in_use() -> None:
    members = re.search(r"rnnmnist.Predictor\n   :members: (.*)", page_of("api"))
    assert members is not None
    uses = [rf"(?<!import )(?<!, )\b{name}\b" for name in rnnmnist.__all__]
    uses += [rf"\.{name}\(" for name in members[1].split(", ")]
    for pattern in (*uses, r"preprocess_image\("):
        assert re.search(pattern, python_of("api")), pattern


def page_of(name: str) -> str:
    return (REPOSITORY / "docs" / f"{name}.md").read_text()


def python_of(name: str) -> str:
    found = blocks(page_of(name))
    return "\n".join(block.text for block in found if block.language == "python")


def test_every_training_command_parses(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    pattern = r"^(?:\.venv/bin/)?python -m rnnmnist\.main(.*)$"
    paths = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    pages = [path.read_text().replace("\\\n", "") for path in paths]
    lines = [line for page in pages for line in re.findall(pattern, page, re.MULTILINE)]
    # The files of sequences do not exist; tests of their page write them.
    lines = [line for line in lines if "data.path=" not in line]
    assert len(lines) >= 15
    (tmp_path / "my").mkdir()
    shutil.copy(REPOSITORY / "configs/default.py", tmp_path / "my/own.py")
    (cell,) = [block for block in blocks(COMMANDS) if block.language == "python"]
    (tmp_path / "leaky.py").write_text(cell.text)
    program = (
        "import sys, shlex\nfrom rnnmnist.main import parse\n"
        "for line in sys.stdin: parse(shlex.split(line, comments=True))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr


def test_the_error_message_in_the_docs_is_the_current_one(command: Command) -> None:
    found = re.search(r"\$ python -m rnnmnist\.main (.*)\n(error: .*\n)", COMMANDS)
    assert found is not None
    finished = command("main", found[1])
    assert (finished.returncode, finished.stderr) == (2, found[2])


def test_the_choices_by_platform_are_the_current_ones() -> None:
    pattern = r"<!-- platforms -->\n(.*)<!-- /platforms -->"
    found = re.search(pattern, DEVICES, re.DOTALL)
    assert found is not None
    _, _, *lines = found[1].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]
    settings, *columns = zip(*rows, strict=True)
    assert {name.split("`")[1] for name in settings if name} <= SETTINGS.keys()
    together = {True: "together", False: "in turn"}
    scans = {True: "parallel", False: "sequential"}
    for how, column in zip(DEFAULTS.values(), columns, strict=True):
        expected = [
            *(str(how.unroll), how.precision, scans[how.parallel_scan]),
            "none" if how.parallel_scan else str(LINEAR_REMAT_STEPS),
            *(together[how.vectorize_seeds], str(how.eval_batch_size)),
        ]
        assert list(column[:-1]) == expected
    assert columns[0][-1].endswith(f", {MOST_CPU_DEVICES}")


def test_the_promises_name_tests_that_exist() -> None:
    named = set(
        re.findall(r"test_\w+\.py", (REPOSITORY / "docs/promises.md").read_text())
    )
    assert len(named) >= 8
    assert named <= {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}


def test_the_architecture_page_names_every_package() -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text()
    section = page.split("\n## Packages\n", 1)[1].split("\n## ", 1)[0]
    table = [line.split("|")[1] for line in section.splitlines() if line[:1] == "|"]
    named = set(re.findall(r"`(\w+)`", "".join(table)))
    packages = {path.parent.name for path in REPOSITORY.glob("rnnmnist/*/__init__.py")}
    assert named == packages | {"cli", "errors"}


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation
