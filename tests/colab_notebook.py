"""The cells and parameters of `notebooks/colab.ipynb`."""

import ast
from pathlib import Path
from typing import Any

import nbformat
from support import REPOSITORY

NOTEBOOK = REPOSITORY / "notebooks" / "colab.ipynb"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def cells() -> dict[str, Any]:
    return {cell.id: cell for cell in read(NOTEBOOK).cells}


def settings() -> dict[str, Any]:
    """The notebook's parameters, by name."""
    (cell,) = [
        cell
        for cell in cells().values()
        if "parameters" in cell.metadata.get("tags", [])
    ]
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(cell.source).body
    }
