"""Renders the tables of cross-validation on training splits, for `render_pages.py`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import page_tables
from folds import RECIPES, SELECTION_DATA_SETS, VARIANTS
from page_tables import format_change, format_mean
from result_files import read_result
from run_classifier import ROCKET

from results import DATA_SETS

FILTERS = "filters"
# The folds that selected the settings of the filters, and fresh folds.
SELECTION = ("5 folds, seed 0", "5 folds, seed 1")
FRESH = ("5 folds, seed 2", "5 folds, seed 3")


def recipes() -> str:
    """Renders the table of recipes trained by gradient descent."""
    lines = []
    for recipe in RECIPES:
        found = _read_accuracies(recipe, ["5 folds, seed 0"])
        lines.append([recipe, _format_mean(found, DATA_SETS)])
    return page_tables.table(("recipe", "mean over eight data sets"), lines)


def variants() -> str:
    """Renders the table of variants from which the filter settings were chosen."""
    lines = []
    default = _read_accuracies(FILTERS, SELECTION)
    for variant in (*list(VARIANTS)[1:], ROCKET):
        found = _read_accuracies(variant, SELECTION)
        differences = np.mean(
            [found[name] - default[name] for name in SELECTION_DATA_SETS], axis=0
        )
        lines.append([variant, format_change(differences)])
    return page_tables.table(("variant", "difference, points"), lines)


def other_folds() -> str:
    """Renders the table of the selected filters on fresh folds."""
    left_out = _read_accuracies(FILTERS, FRESH, "left_out", "fitted")
    rows = {
        "filters": _read_accuracies(FILTERS, FRESH),
        "PPV only": _read_accuracies("PPV only", FRESH),
        "filters, leave-one-out on the training folds": left_out,
        ROCKET: _read_accuracies(ROCKET, FRESH),
    }
    lines = [
        [
            label,
            _format_mean(found, SELECTION_DATA_SETS),
            _format_mean(found, DATA_SETS),
        ]
        for label, found in rows.items()
    ]
    return page_tables.table(
        ("classifier", "mean without ACSF1", "mean over all eight"), lines
    )


def _read_accuracies(
    classifier: str,
    all_folds: Sequence[str],
    correct: str = "correct",
    examples: str = "examples",
) -> dict[str, np.ndarray]:
    """Reads the accuracy of each fold in percent, for each data set."""
    found: dict[str, Any] = read_result("folds")[classifier]
    accuracies = dict[str, list[np.ndarray]]()
    for folds in all_folds:
        for name, counts in found.get(folds, {}).items():
            percents = 100 * np.divide(counts[correct], counts[examples])
            accuracies.setdefault(name, []).append(percents)
    return {name: np.concatenate(parts) for name, parts in accuracies.items()}


def _format_mean(accuracies: dict[str, np.ndarray], names: Sequence[str]) -> str:
    """Formats the mean over data sets, with the standard error over folds."""
    if not accuracies.keys() >= set(names):
        return ""
    return format_mean(np.mean([accuracies[name] for name in names], axis=0))
