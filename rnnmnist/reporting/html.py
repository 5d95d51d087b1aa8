"""Renders HTML pages from Jinja2 templates, and writes those of reports."""

import base64
import datetime
import struct
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jinja2

from rnnmnist.errors import UserError, set_missing_filename
from rnnmnist.evaluation import formatting
from rnnmnist.runtime import machine

FOLDER = Path(__file__).parent
MARK = '<meta name="generator" content="rnnmnist.report">'  # in `layout.html`


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


class Section(NamedTuple):
    """The content of a report's section; headings and sentences are in the template."""

    picture: bytes | None = None  # PNG
    rows: Sequence[Sequence[str]] = ()  # a table, which is shown if there is no picture
    # The numbers of the sentences; a template can format values of any type.
    numbers: Mapping[str, object] = {}


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
    environment.filters.update(
        accuracy=formatting.format_accuracy,
        groups=formatting.format_groups,
        base64=_to_base64,
        interval=formatting.format_interval,
        percent=formatting.format_percent,
        png_size=_png_size,
        points=formatting.format_points,
        split_name=formatting.format_split,
        thousands="{:,}".format,
        validation=formatting.format_validation,
    )
    base = (FOLDER / "base.css").read_text("utf-8")
    style = template.with_name("style.css").read_text("utf-8")
    css = f"{_css_palettes()}\n{base}{style}"
    return environment.get_template(template.name).render(style=css, **values)


def write_report(
    folder: Path,
    template: str,
    sections: Mapping[str, Section],
    command: str,
    **values: object,
) -> list[Path]:
    """Writes a page and its pictures, which it also contains; returns their paths.

    The page is one file that loads no other file and runs no script. It replaces an
    earlier report, but no other page.
    """
    index = folder / "index.html"
    if index.is_file() and MARK not in index.read_text(errors="replace"):
        raise UserError(f"workdir: {index} is not a report; move it away")
    now = datetime.datetime.now().astimezone()
    provenance = [
        ("command", command),
        ("time", f"{now:%Y-%m-%d %H:%M %Z}"),
        ("machine", machine.describe_processor()),
        *machine.installed_versions().items(),
        ("matplotlib", metadata.version("matplotlib")),
    ]
    page = render(FOLDER / template, sections=sections, provenance=provenance, **values)
    files = {
        folder / f"{name}.png": section.picture
        for name, section in sections.items()
        if section.picture is not None
    }
    files[index] = page.replace(" %", "\N{NO-BREAK SPACE}%").encode()
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        with set_missing_filename(path):
            path.write_bytes(content)
    return list(files)


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


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _png_size(png: bytes) -> tuple[int, int]:
    """Returns the width and the height of a PNG file, from its header."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height
