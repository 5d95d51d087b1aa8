"""Runs a page of the tutorial with five seeds.

    python tools/tutorial_seeds.py gradients

The page should state only results that hold for all seeds. For each seed, this tool
prints the output of the page's cells, and runs its hidden checks, which print more
numbers. Each seed takes a few minutes.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jupytext
import matplotlib
import tutorial
from matplotlib import pyplot

SEEDS = 5
NETWORKS = 3  # networks in part 3, which have consecutive seeds


def read_cells(page: Path) -> list[str]:
    """Reads the code of each cell of a page."""
    cells = []
    for cell in jupytext.reads(page.read_text(), fmt="md:myst").cells:
        if cell.cell_type == "code":
            loaded = cell.metadata.get("load")
            cells.append((page.parent / loaded).read_text() if loaded else cell.source)
    return cells


def run_page(page: Path, offset: int) -> dict[str, Any]:
    """Runs the cells of a page, with an offset added to each seed.

    Returns:
        The variables that the cells define.
    """
    make_key = jax.random.key
    names: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        mock.patch.object(jax.random, "key", lambda seed: make_key(seed + offset)),
    ):
        for code in read_cells(page):
            exec(code, names)
            pyplot.close("all")
    return names


def main() -> None:
    """Parses the command line, and runs the page with each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pages = {page.stem.removeprefix("tutorial_"): page for page in tutorial.PAGES}
    parser.add_argument("page", choices=pages)
    page = pages[parser.parse_args().page]
    matplotlib.use("Agg")
    for number in range(SEEDS):
        print(f"\n== seed {number + 1} of {SEEDS}", flush=True)
        run_page(page, number * NETWORKS)


if __name__ == "__main__":
    main()
