"""Formats Markdown tables, and inserts them between the markers of pages."""

from collections.abc import Iterable, Mapping, Sequence


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
