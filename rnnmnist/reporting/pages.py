"""Pages of reports: their templates, sections and files."""

import datetime
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from rnnmnist.errors import UserError, names_path
from rnnmnist.reporting import html
from rnnmnist.runtime import machine

MARK = '<meta name="generator" content="rnnmnist.report">'  # of `layout.html`
Entries = Sequence[tuple[str, str]]  # names and values of a card


class Section(NamedTuple):
    """The content of a section; its headings and sentences are in the template."""

    rows: Sequence[Sequence[str]] = ()  # of its table; the first cell names the row
    picture: bytes | None = None  # PNG
    numbers: Mapping[str, object] = {}  # of the sentences


def provenance(command: str, time: datetime.datetime) -> Entries:
    """Describes the report itself: its command, this machine and its versions."""
    return [
        ("command", command),
        ("time", f"{time:%Y-%m-%d %H:%M %Z}"),
        ("machine", machine.describe_processor()),
        *machine.installed_versions().items(),
        ("matplotlib", metadata.version("matplotlib")),
    ]


def render_page(
    template: str, sections: Mapping[str, Section], **values: object
) -> dict[str, bytes]:
    """Returns a page and its pictures, which it also contains, by file name.

    The page is one file that loads no other file and runs no script.
    """
    files = {
        f"{name}.png": section.picture
        for name, section in sections.items()
        if section.picture is not None
    }
    style = html.FOLDER / "report.css"
    page = html.render(html.FOLDER / template, style, sections=sections, **values)
    return files | {"index.html": page.replace(" %", "\N{NO-BREAK SPACE}%").encode()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes a page and its pictures, and replaces those of an earlier report."""
    index = folder / "index.html"
    if index.is_file() and MARK not in index.read_text(errors="replace"):
        raise UserError(f"workdir: {index} is not a report; move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with names_path(folder / name):
            (folder / name).write_bytes(content)
    return [folder / name for name in files]
