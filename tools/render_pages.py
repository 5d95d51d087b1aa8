"""Renders all tables and plots of the pages from the stored measurements.

    python tools/render_pages.py

Tables are inserted between markers. The measurements are in `results/`, where the tools
write them, and in `benchmarks/`. Nothing is measured.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import calibration
import crossover
import few_sequences
import fold_tables
import page_tables
import result_tables
import robustness
import vanishing
from result_files import REPOSITORY
from result_tables import HEADLINE, table

import results

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
import long_sequences
import speed_tables

OTHERS = ("every_step", "large_batch")  # neither in the README nor in the ablation
TEST = "test accuracy, mean ± std"
LONG = ("network", "test accuracy", "parameters", "epochs")
# The tables of each page, by the names of their markers.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "results": partial(
            table,
            [results.CONFIGURATIONS[name] for name in HEADLINE],
            "configuration",
            "data",
            "recipe",
            "parameters",
            TEST,
            "test images",
            "seeds",
            "seconds",
        )
    },
    "benchmarks/README.md": {
        "tables": lambda: speed_tables.tables(speed_tables.read()),
        "cells": long_sequences.cells,
        "scans": long_sequences.scans,
    },
    "docs/long_sequences.md": {
        "vanishing": vanishing.accuracies,
        "pixels": partial(table, results.PIXELS, *LONG),
        "permuted": partial(
            table, results.PERMUTED, "network", "test accuracy", "epochs"
        ),
        "origin": vanishing.origin,
    },
    "docs/performance.md": {"speed": lambda: speed_tables.summary(speed_tables.read())},
    "docs/predict.md": {
        "robustness": robustness.tables,
        "accuracy_by_row": result_tables.accuracy_by_row,
    },
    "docs/results.md": {
        "results": partial(
            table,
            [results.CONFIGURATIONS[name] for name in OTHERS],
            "configuration",
            TEST,
            "seconds",
        ),
        "ablation": partial(result_tables.differences, results.ABLATION),
        "origin": partial(
            result_tables.origin_of,
            results.CONFIGURATIONS.values(),
            results.ABLATION,
            results.DIRECTIONS,
            results.LAYERS,
        ),
    },
    "docs/results_sequences.md": {
        "archive": result_tables.archive,
        "crossover": crossover.table,
        "few_sequences": few_sequences.accuracies,
        "binary": few_sequences.binary,
        "calibration_methods": calibration.methods,
        "origin": result_tables.sequences_origin,
    },
    "docs/results_choices.md": {
        "recipes": fold_tables.recipes,
        "variants": fold_tables.variants,
        "other_folds": fold_tables.other_folds,
    },
}
PLOTS: dict[str, Callable[[], bytes]] = {
    "docs/ablation.png": result_tables.ablation_figure,
    "docs/crossover.png": crossover.plot,
    "docs/vanishing.png": vanishing.plot,
}


def render(page: str) -> str:
    """Renders the tables of a page, and returns the whole page."""
    text = (REPOSITORY / page).read_text()
    for name, render_table in PAGES[page].items():
        text = page_tables.fill(text, name, render_table())
    return text


def main() -> None:
    """Renders all pages and plots."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for page in PAGES:
        (REPOSITORY / page).write_text(render(page))
    for path, plot in PLOTS.items():
        (REPOSITORY / path).write_bytes(plot())


if __name__ == "__main__":
    main()
