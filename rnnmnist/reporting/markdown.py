"""Tables in Markdown, and pages that contain them between markers."""

import statistics
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table, each line of which ends with a newline."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def median_and_range(values: Sequence[float], spec: str) -> str:
    """Formats the median, the minimum and the maximum of some values.

    >>> median_and_range([3, 1, 2], ".1f")
    '2.0 (1.0 to 3.0)'
    """
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{spec}} ({low:{spec}} to {high:{spec}})"


def fill(page: str, name: str, text: str) -> str:
    r"""Replaces the text between the markers of a name.

    >>> fill("<!-- a -->\nold\n<!-- /a -->", "a", "new\n")
    '<!-- a -->\nnew\n<!-- /a -->'

    Raises:
        ValueError: if the page does not contain each marker exactly once.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{text}{end}{after}"
