"""The tables of the cross-validation within training splits, for `render_pages.py`."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import page_tables
from folds import DROPOUT, EARLY, FILE, MINIROCKET, RECIPES, VARIANTS

from results import SETS

SEVEN = SETS[:-1]
# The set on which the classifiers differ most.
NOTABLE = "PickupGestureWiimoteZ"
FILTERS = "filters"
# The folds that chose the settings of the filters, and those that chose nothing.
CHOOSING = ("5 folds, seed 0", "5 folds, seed 1")
OTHERS = ("5 folds, seed 2", "5 folds, seed 3")
# The data sets for which accuracies before the end are shown.
EARLY_SETS = ("GunPoint", "JapaneseVowels", "PickupGestureWiimoteZ")


def recipes() -> str:
    """Returns the table of the recipes that are trained by gradients."""
    lines = []
    for recipe in RECIPES:
        found = _read_accuracies(recipe, ["5 folds, seed 0"])
        if found:
            lines.append([recipe, _format_mean(found, SETS)])
    return page_tables.table(("recipe", "mean of all eight"), lines)


def dropout() -> str:
    """Returns the table of the trained recipe with dropout."""
    return _compare(list(DROPOUT))


def variants() -> str:
    """Returns the table of the variants of the filters, which chose their settings."""
    return _compare([*VARIANTS, MINIROCKET])


def _compare(classifiers: Sequence[str]) -> str:
    """Returns a table that compares classifiers with the first one in equal folds."""
    lines = []
    first = _read_accuracies(classifiers[0], CHOOSING)
    for classifier in classifiers:
        found = _read_accuracies(classifier, CHOOSING)
        differences = np.mean([found[name] - first[name] for name in SEVEN], axis=0)
        mean = round(differences.mean(), 1) + 0.0  # not -0.0
        difference = f"{mean:+.1f} ± {_standard_error(differences):.1f}"
        is_first = classifier == classifiers[0]
        lines.append(
            [classifier, _format_mean(found, SEVEN), "" if is_first else difference]
        )
    header = ("", "mean of seven", "difference from the first row")
    return page_tables.table(header, lines)


def other_folds() -> str:
    """Returns the table of the chosen filters in folds that chose nothing."""
    left_out = _read_accuracies(FILTERS, OTHERS, "left_out", "fitted")
    rows = {
        "filters": _read_accuracies(FILTERS, OTHERS),
        "PPV only": _read_accuracies("PPV only", OTHERS),
        "filters, leave one out in the other folds": left_out,
        MINIROCKET: _read_accuracies(MINIROCKET, OTHERS),
    }
    lines = []
    for label, found in rows.items():
        means = [_format_mean(found, names) for names in (SEVEN, SETS)]
        lines.append([label, f"{found[NOTABLE].mean():.1f}", *means])
    header = ("", NOTABLE, "mean of seven", "mean of all")
    return page_tables.table(header, lines)


def earliness() -> str:
    """Returns the table of accuracies after parts of the sequences."""
    results = _read()[FILTERS]
    lines = []
    for name in EARLY_SETS:
        sets = [results[folds][name] for folds in CHOOSING]
        examples = np.concatenate([one["examples"] for one in sets])
        early = [part for one in sets for part in one["correct_after"]]
        correct = [[part[str(percentage)] for part in early] for percentage in EARLY]
        correct.append(np.concatenate([one["correct"] for one in sets]).tolist())
        cells = [f"{100 * np.mean(counts / examples):.1f}" for counts in correct]
        lines.append([name, *cells])
    header = (f"{percentage} %" for percentage in (*EARLY, 100))
    return page_tables.table(("data set", *header), lines)


def _read() -> dict[str, dict[str, dict[str, dict[str, list[Any]]]]]:
    """Reads the counts by classifier, folds, data set and kind."""
    results: dict[str, Any] = json.loads(FILE.read_text())
    return results


def _read_accuracies(
    classifier: str,
    all_folds: Sequence[str],
    correct: str = "correct",
    examples: str = "examples",
) -> dict[str, np.ndarray]:
    """Returns the accuracy in each fold by data set, in percent."""
    found = _read()[classifier]
    accuracies = dict[str, list[np.ndarray]]()
    for folds in all_folds:
        for name, counts in found.get(folds, {}).items():
            percents = 100 * np.divide(counts[correct], counts[examples])
            accuracies.setdefault(name, []).append(percents)
    return {name: np.concatenate(parts) for name, parts in accuracies.items()}


def _format_mean(accuracies: dict[str, np.ndarray], names: Sequence[str]) -> str:
    """Formats the mean over data sets, with its standard error over folds."""
    if not accuracies.keys() >= set(names):
        return ""
    means = np.mean([accuracies[name] for name in names], axis=0)
    return f"{means.mean():.1f} ± {_standard_error(means):.1f}"


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5
