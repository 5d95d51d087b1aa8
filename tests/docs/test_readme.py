"""The commands of the README and of the pages on commands run unchanged."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support import REPOSITORY, agrees, code_blocks, run_block

from rnnmnist.commands.train import parse

README = (REPOSITORY / "README.md").read_text()


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_in_order_in_one_clone(
    environment: dict[str, str], tmp_path: Path, committed: Path
) -> None:
    """Training takes a tenth of the updates, and installations and tests are left out.

    `.ci/run` runs the first two blocks unchanged.
    """
    clone = tmp_path / "rnnmnist"
    subprocess.run(["git", "clone", "--quiet", committed, clone], check=True)
    python_path = os.pathsep.join([str(clone), environment["PYTHONPATH"]])
    variables = environment | {"HOME": str(tmp_path), "PYTHONPATH": python_path}
    printed = ""
    fence = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for language, text in fence.findall(README):
        if language == "text":  # the output of the block above
            assert agrees(printed, text), printed
            continue
        command = text.split(" && ")[-1].replace("num_steps=1600", "num_steps=160")
        if command == "rnnmnist train\n":
            command = "rnnmnist train --config.train.num_steps=150\n"
        if "pytest" not in command:
            printed = run_block(language, command, clone, variables)
            printed = printed.replace(str(tmp_path), "/home/you")


@pytest.mark.slow
def test_the_python_blocks_of_the_reference_run(
    unoptimized: dict[str, str], tmp_path: Path
) -> None:
    text = "\n".join(code_blocks("docs/reference.md", "python"))
    run_block("python", text, tmp_path, unoptimized)


def test_every_training_command_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = r"^(?:(?:\.venv/bin/)?python -m rnnmnist\.main|rnnmnist train)((?: .*)?)$"
    paths = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    pages = [path.read_text().replace("\\\n", "") for path in paths]
    lines = [line for page in pages for line in re.findall(pattern, page, re.MULTILINE)]
    # The sequence files do not exist here; the tests of their page write them.
    lines = [line for line in lines if "data.path=" not in line]
    assert len(lines) >= 10
    (tmp_path / "my").mkdir()
    shutil.copy(REPOSITORY / "configs/default.py", tmp_path / "my/own.py")
    monkeypatch.chdir(tmp_path)
    for line in lines:
        parse(shlex.split(line, comments=True))
