"""The example program: short, independent of the package, and it learns."""

import ast
import re

import plain_loop
import pytest
from support import REPOSITORY

SOURCE = (REPOSITORY / "examples/plain_loop.py").read_text()


def test_the_plain_loop_fits_on_two_screens() -> None:
    assert len(SOURCE.splitlines()) <= 120


def test_the_plain_loop_imports_only_data_of_the_package() -> None:
    imported = set[str]()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    of_package = {name for name in imported if name.startswith("rnnmnist")}
    assert of_package == {"rnnmnist.data.datasets"}


@pytest.mark.slow
def test_the_plain_loop_learns_and_evaluates_the_test_split_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain_loop, "EPOCHS", 1)
    plain_loop.main()
    found = re.fullmatch(
        r"epoch  1  validation accuracy \d+\.\d% \((\d+) of 500\)\n"
        r"test accuracy \d+\.\d% \((\d+) of 500\)\n",
        capsys.readouterr().out,
    )
    assert found
    assert min(map(int, found.groups())) > 200, "chance is 50"
