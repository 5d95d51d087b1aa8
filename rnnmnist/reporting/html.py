"""A page from its parts: one file, which asks for no other and runs no script.

It can be mailed and opened from a disk. It fits a phone, follows the predictor's choice
of light or dark, and says in words and tables what its pictures show.
"""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from rnnmnist.reporting.palette import DARK, LIGHT, Palette

STYLE = Path(__file__).parent / "report.css"
GROUND = Path(__file__).parent / "base.css"


class Link(NamedTuple):
    """Words that lead to another file, by its path from the page."""

    text: str
    target: str


class Command(NamedTuple):
    """A command line, whose words are kept together where they can be."""

    text: str


Cell = str | Link | Command  # each line of a text is a line of the page


class Picture(NamedTuple):
    """A picture in both palettes, and in words."""

    name: str  # of its files
    light: bytes  # PNG
    dark: bytes  # PNG of the same size
    words: str  # what it shows, in numbers: for who does not see it


class Table(NamedTuple):
    """Rows under a header; the first cell of each is the row's name."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Section(NamedTuple):
    """A heading with what belongs to it; what is None is left out."""

    title: str
    text: Sequence[str] = ()  # paragraphs
    picture: Picture | None = None
    numbers: Table | None = None  # behind the picture, folded away
    table: Table | None = None  # in the open


class Card(NamedTuple):
    """A list of names and values."""

    title: str
    entries: Sequence[tuple[str, Cell]]


class Page(NamedTuple):
    """Everything that a page says, the answer first."""

    title: str
    answer: str  # a number with its unit
    answer_to: str  # what it is a number of
    lead: Sequence[str]  # paragraphs
    sections: Sequence[Section]
    cards: Sequence[Card]
    appendix: Sequence[Section] = ()  # after the cards


def write(page: Page) -> str:
    """The page as HTML."""
    lead = "\n".join(f"<p>{_words(text)}</p>" for text in page.lead)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(page.title)}: {escape(page.answer)}</title>
<link rel="icon" href="data:,">
<style>
{style(STYLE)}</style>
</head>
<body>
<header>
<h1>{_words(page.title)}</h1>
<p class="answer"><strong>{_words(page.answer)}</strong> {_words(page.answer_to)}</p>
{lead}
</header>
<main>
{"".join(map(_section, page.sections))}</main>
<footer>
<div class="grid">
{"".join(map(_card, page.cards))}</div>
{"".join(map(_section, page.appendix))}</footer>
</body>
</html>
"""


def style(sheet: Path) -> str:
    """A page's own style behind what all share, by light and in the dark."""
    return (
        f":root {{ {_colours(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_colours(DARK)} }} }}\n"
        f"{GROUND.read_text('utf-8')}{sheet.read_text('utf-8')}"
    )


def pictures(page: Page) -> dict[str, bytes]:
    """The page's pictures as files, by name: `NAME.png` and `NAME-dark.png`."""
    found = [section.picture for section in page.sections]
    return {
        f"{picture.name}{ending}.png": png
        for picture in found
        if picture is not None
        for ending, png in (("", picture.light), ("-dark", picture.dark))
    }


def _words(text: str) -> str:
    # No end of a line comes between a number and its unit.
    return escape(text).replace(" %", "&nbsp;%")


def _section(section: Section) -> str:
    parts = [f"<h2>{_words(section.title)}</h2>"]
    if section.picture is not None:
        parts.append(_figure(section.picture, section.text))
    else:
        parts += [f"<p>{_words(text)}</p>" for text in section.text]
    if section.table is not None:
        parts.append(_table(section.table, "cards"))
    if section.numbers is not None:
        table = _table(section.numbers, "numbers")
        parts.append(f"<details><summary>The numbers</summary>{table}</details>")
    kind = "wide"
    if section.picture is not None:
        width, height = _size(section.picture)
        kind = "tall" if height > 1.2 * width else "square"
    return "\n".join([f'<section class="{kind}">', *parts, "</section>", ""])


def _size(picture: Picture) -> tuple[int, int]:
    """Its width and height, with which the first chunk of a PNG begins."""
    width, height = picture.light[16:20], picture.light[20:24]
    return int.from_bytes(width, "big"), int.from_bytes(height, "big")


def _figure(picture: Picture, text: Sequence[str]) -> str:
    width, height = _size(picture)  # so that nothing jumps when it is there
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(png).decode()}"
        for png in (picture.light, picture.dark)
    )
    caption = "\n".join(f"<p>{_words(words)}</p>" for words in text)
    return (
        "<figure>\n<picture>\n"
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'<img src="{light}" width="{width}" height="{height}" '
        f'alt="{escape(picture.words)}">\n'
        f"</picture>\n<figcaption>{caption}</figcaption>\n</figure>"
    )


def _table(table: Table, kind: str) -> str:
    header = "".join(f'<th scope="col">{_words(name)}</th>' for name in table.header)
    rows = []
    for first, *others in table.rows:
        # On a phone a row becomes a card, where each cell says its column's name.
        cells = "".join(
            f'<td data-name="{escape(name)}">{_cell(cell)}</td>'
            for name, cell in zip(table.header[1:], others, strict=True)
        )
        rows.append(f'<tr><th scope="row">{_cell(first)}</th>{cells}</tr>\n')
    return (
        f'<table class="{kind}"><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.target)}">{_words(cell.text)}</a>'
    if isinstance(cell, Command):
        words = (f"<span>{escape(word)}</span>" for word in cell.text.split(" "))
        return f"<code>{' '.join(words)}</code>"
    return "<br>".join(map(_words, cell.split("\n")))


def _card(card: Card) -> str:
    entries = "".join(
        # The name of a setting may be broken behind its underscores.
        f"<div><dt>{escape(name).replace('_', '_<wbr>')}</dt>"
        f"<dd>{_cell(value)}</dd></div>\n"
        for name, value in card.entries
    )
    return f"<section><h2>{_words(card.title)}</h2><dl>{entries}</dl></section>\n"


def _colours(palette: Palette) -> str:
    named = palette._asdict()
    series = named.pop("series")
    named |= {f"series-{place}": colour for place, colour in enumerate(series)}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())
