"""Renders HTML pages from Jinja2 templates.

A page is one file that loads no other file and runs no script. It fits a phone,
follows the browser's colour scheme, and every plot has an alternative text and a table.
"""

import base64
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

FOLDER = Path(__file__).parent
MARK = '<meta name="generator" content="rnnmnist.report">'  # of a report page


class Palette(NamedTuple):
    """The colours of one colour scheme, each as `#rrggbb`.

    The series are Okabe and Ito's colours, which remain distinguishable with colour
    vision deficiencies, darker on white and lighter on black for legible lines.

    References:
        Okabe, Ito, "Color Universal Design", 2008. https://jfly.uni-koeln.de/color/
    """

    background: str
    foreground: str  # text
    muted: str  # secondary text
    line: str  # grids and frames
    series: tuple[str, ...]


LIGHT = Palette(
    background="#ffffff",
    foreground="#1b1f24",
    muted="#57606a",
    line="#d8dde3",
    series=("#0072b2", "#c4501b", "#007a5a", "#a03d85", "#8a6100", "#1b1f24"),
)
DARK = Palette(
    background="#14171b",
    foreground="#e6e9ed",
    muted="#a3acb7",
    line="#363d46",
    series=("#56b4e9", "#f08a4b", "#2ebd94", "#e39bcb", "#e6b822", "#e6e9ed"),
)


class Link(NamedTuple):
    """A link to another file, by its URL relative to the page."""

    text: str
    url: str


Cell = str | Link  # line breaks are preserved


class Picture(NamedTuple):
    """A plot."""

    name: str  # of its file, without the suffix
    png: bytes
    alt: str  # describes the plot with its main numbers

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG header."""
        return struct.unpack(">II", self.png[16:24])


class Table(NamedTuple):
    """A header and rows; the first cell of a row is its name."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Section(NamedTuple):
    """A heading with its content; the table of a plot is collapsed."""

    title: str
    paragraphs: Sequence[str] = ()
    picture: Picture | None = None
    table: Table | None = None


class Card(NamedTuple):
    """A list of names and values."""

    title: str
    entries: Sequence[tuple[str, Cell]]


class Page(NamedTuple):
    """The content of a page."""

    title: str
    headline: str  # the main number, with its unit
    caption: str  # of the headline
    lead: Sequence[str]  # paragraphs
    sections: Sequence[Section]
    cards: Sequence[Card]
    appendix: Sequence[Section] = ()


def render_page(page: Page) -> str:
    """Renders a report page."""
    text = render(FOLDER / "report.html", FOLDER / "report.css", page=page)
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def render(template: Path, style: Path, **values: object) -> str:
    """Renders a Jinja2 template; values are escaped unless it marks them as safe.

    Its variable `style` is the page's CSS, after the palettes and `base.css`.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    css = (
        f":root {{ {_css_variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_css_variables(DARK)} }} }}"
        f"\n{(FOLDER / 'base.css').read_text('utf-8')}{style.read_text('utf-8')}"
    )
    source = template.read_text("utf-8")
    return environment.from_string(source).render(style=css, **values)


def picture_files(page: Page) -> dict[str, bytes]:
    """Returns the page's plots by file name."""
    pictures = [section.picture for section in page.sections if section.picture]
    return {f"{picture.name}.png": picture.png for picture in pictures}


def _css_variables(palette: Palette) -> str:
    colours = palette._asdict()
    for index, colour in enumerate(colours.pop("series")):
        colours[f"series-{index}"] = colour
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
