"""The README's own lines, typed as they stand."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def block(language: str, heading: str) -> list[str]:
    """The lines of the first code block of a language under a heading."""
    section = README.split(f"## {heading}\n", 1)[1]
    text = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]
    return [line.split("  #")[0].strip() for line in text.strip().splitlines()]


def test_the_first_two_commands_are_one_line_each() -> None:
    first, second = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:2]
    for text in (first, second):
        assert text.count("\n") == 1
        assert text.startswith("python3 -m venv .venv && ")
    assert first.endswith("python -m rnnmnist.main\n")
    assert second.endswith("python -m pytest\n")


@pytest.mark.slow
def test_train_continue_evaluate(environment: dict[str, str], tmp_path: Path) -> None:
    lines = block("text", "Train, continue, evaluate")
    assert [word for word in lines[0].split() if "num_steps" in word]
    outputs = []
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "python"
        finished = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr
        outputs.append(finished.stdout)
    assert "resuming from step" in outputs[1]
    results = list((tmp_path / "checkpoints/embedded/evaluation").glob("*.json"))
    documents = [json.loads(path.read_text()) for path in results]
    assert {document["split"] for document in documents} == {"test", "validation"}
    assert all(document["accuracy"] > 0.95 for document in documents)


def test_the_example_is_read_as_it_says(environment: dict[str, str]) -> None:
    found = re.search(r"```text\n\$ (python -m rnnmnist\.predict .*)\n([^`]*)", README)
    assert found is not None
    words = shlex.split(found[1])
    assert (REPOSITORY / words[-1]).is_file()
    finished = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (finished.stdout, finished.stderr) == (found[2], "")


def test_every_command_line_of_the_readme_is_understood(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Each `rnnmnist.main` line parses, up to where training would begin."""
    lines = re.findall(r"^python -m rnnmnist\.main(.*)$", README, re.MULTILINE)
    assert len(lines) >= 5
    (tmp_path / "my").mkdir()
    shutil.copy(REPOSITORY / "configs/default.py", tmp_path / "my/own.py")
    program = (
        "import sys, shlex\nfrom rnnmnist.config.command_line import parse_training\n"
        "for line in sys.stdin: parse_training(shlex.split(line, comments=True), '')"
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


def test_the_map_names_every_room() -> None:
    rooms = {path.name for path in (REPOSITORY / "rnnmnist").glob("*.py")}
    section = README.split("## The rooms\n", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(\w+\.py)`", section))
    assert named == rooms - {"__init__.py"}
