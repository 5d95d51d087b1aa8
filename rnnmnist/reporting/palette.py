"""Colours of pictures and pages, by light and in the dark.

The series are Okabe and Ito's, which colour-blind people tell apart, a little darker
on white and a little lighter on black so that lines and words stand out of both.

References:
    Okabe, Ito, "Color Universal Design", 2008. https://jfly.uni-koeln.de/color/
"""

from typing import NamedTuple


class Palette(NamedTuple):
    """Colours that go together, each as `#rrggbb`."""

    paper: str  # behind everything
    ink: str  # words
    muted: str  # words of less weight
    line: str  # grids and frames
    series: tuple[str, ...]


LIGHT = Palette(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#57606a",
    line="#d8dde3",
    series=("#0072b2", "#c4501b", "#007a5a", "#a03d85", "#8a6100", "#1b1f24"),
)
DARK = Palette(
    paper="#14171b",
    ink="#e6e9ed",
    muted="#a3acb7",
    line="#363d46",
    series=("#56b4e9", "#f08a4b", "#2ebd94", "#e39bcb", "#e6b822", "#e6e9ed"),
)
