"""Renders HTML pages from Jinja2 templates."""

from pathlib import Path
from typing import NamedTuple

import jinja2

FOLDER = Path(__file__).parent


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


def render(template: Path, **values: object) -> str:
    """Renders a Jinja2 template; values are escaped unless it marks them as safe.

    Its variable `style` is the palettes, `base.css`, and `style.css` of its folder.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    base = (FOLDER / "base.css").read_text("utf-8")
    style = template.with_name("style.css").read_text("utf-8")
    css = f"{_css_palettes()}\n{base}{style}"
    return environment.get_template(template.name).render(style=css, **values)


def _css_palettes() -> str:
    """Returns the style sheet that defines the colours of both schemes as variables."""
    light, dark = _css_variables(LIGHT), _css_variables(DARK)
    return (
        f":root {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


def _css_variables(palette: Palette) -> str:
    """Returns CSS declarations such as `--line: #d8dde3;` of a palette."""
    colours = palette._asdict()
    for index, colour in enumerate(colours.pop("series")):
        colours[f"series-{index}"] = colour
    declarations = [f"--{name}: {colour};" for name, colour in colours.items()]
    return " ".join(declarations)
