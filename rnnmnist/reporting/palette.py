"""Colours of plots and pages for light and dark colour schemes.

The series are Okabe and Ito's colours, which remain distinguishable with colour
vision deficiencies. They are slightly darker on white and slightly lighter on black to
keep text and lines legible.

References:
    Okabe, Ito, "Color Universal Design", 2008. https://jfly.uni-koeln.de/color/
"""

from typing import NamedTuple


class Palette(NamedTuple):
    """The colours of one colour scheme, each as `#rrggbb`."""

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
