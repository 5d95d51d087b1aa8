"""Renders HTML pages from Jinja2 templates."""

from pathlib import Path

import jinja2

FOLDER = Path(__file__).parent


def render(template: Path, **values: object) -> str:
    """Renders a Jinja2 template.

    Values are escaped unless the template marks them as safe. The template variable
    `style` contains `base.css`, followed by the `style.css` in the template's folder.
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
    return environment.get_template(template.name).render(style=base + style, **values)
