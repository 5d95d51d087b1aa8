"""Which changes a measurement of the tests draws."""

import ast
from pathlib import Path

import mutations

SOURCE = '''\
"""A module with 1 digit."""
LIMIT: int = 10
def f(x: "int", y: float = -0.5) -> "list[int]":
    if x < LIMIT and not (x == 3):
        print(x)
    if y is None:
        raise ValueError(f"{x + 1} is not valid")
    return [x * y]
'''


def test_operators_numbers_and_calls_are_drawn(tmp_path: Path) -> None:
    """Annotations and messages are not. A seed draws the same changes again."""
    (tmp_path / "rnnmnist").mkdir()
    (tmp_path / "rnnmnist/µ.py").write_text(SOURCE)
    drawn = mutations.draw(tmp_path, 0)
    assert {(change["line"], change["after"].strip()) for change, _ in drawn} == {
        (2, "LIMIT: int = 9"),
        (3, 'def f(x: "int", y: float = +0.5) -> "list[int]":'),
        (3, 'def f(x: "int", y: float = --0.5) -> "list[int]":'),
        (4, "if x <= LIMIT and not (x == 3):"),
        (4, "if x < LIMIT or not (x == 3):"),
        (4, "if x < LIMIT and  (x == 3):"),
        (4, "if x < LIMIT and not (x != 3):"),
        (4, "if x < LIMIT and not (x == 2):"),
        (5, "pass"),
        (6, "if y is not None:"),
        (8, "return [x / y]"),
    }
    for change, new in drawn:
        ast.parse(new)
        assert change["before"] == SOURCE.splitlines()[change["line"] - 1]
    assert drawn == mutations.draw(tmp_path, 0)
    assert drawn != mutations.draw(tmp_path, 1)
