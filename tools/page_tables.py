"""Tables in Markdown, and pages that contain them between markers."""

from collections.abc import Iterable, Mapping, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table, each line of which ends with a newline."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def format_versions(versions: Mapping[str, str]) -> str:
    """Lists the versions that matter most; the file of a measurement has all."""
    return ", ".join(f"{name} {versions[name]}" for name in ("python", "flax", "jax"))


def fill(page: str, name: str, text: str) -> str:
    """Replaces the text between the markers of a name, each of which occurs once."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{text}{end}{after}"
