"""Formats Markdown tables, and inserts them between the markers of pages."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a Markdown table, with a newline after each line."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def format_versions(versions: Mapping[str, str]) -> str:
    """Lists the most important versions; result files contain all versions."""
    names = ("Python", "Flax", "JAX")
    return ", ".join(f"{name} {versions[name.lower()]}" for name in names)


def fill(page: str, name: str, text: str) -> str:
    """Replaces the text between the markers `name` and `/name` of a page."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{text}{end}{after}"


def format_mean(values: np.ndarray, sign: str = "") -> str:
    """Formats the mean with one decimal and, for several values, its standard error."""
    if not len(values):
        return ""
    mean = round(float(values.mean()), 1) + 0.0  # not -0.0
    text = f"{mean:{sign}.1f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1) / len(values) ** 0.5:.1f}"
    return text


def format_change(differences: np.ndarray) -> str:
    """Formats the mean difference, with its sign and standard error."""
    return format_mean(differences, "+")
