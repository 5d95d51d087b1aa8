"""Configuration of the documentation site.

    pip install '.[docs]'
    python -m sphinx -W docs OUT

Pages with `{code-cell}` blocks are executed. Neither a build nor its formulas need a
network. Links from the pages to other files of the repository lead to the address in
pyproject.toml.
"""

import dataclasses
import html
import re
import shutil
import textwrap
import tomllib
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import msgspec
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from rnnmnist.commands import page
from rnnmnist.config.schema import SETTINGS
from rnnmnist.config.settings import ConfigSection

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
REPOSITORY, SITE = URLS["Repository"], URLS["Documentation"]

project = "rnnmnist"
author = "The rnnmnist contributors"
version = release = installed_version("rnnmnist")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

html_theme = "sphinx_book_theme"
html_title = "rnnmnist"
html_baseurl = SITE
html_static_path = ["static"]
html_css_files = ["site.css"]
html_logo = html_favicon = "static/mark.svg"
html_math_renderer = "mathml"  # which browsers draw themselves
html_theme_options = {
    "logo": {"text": "rnnmnist"},
    "repository_url": REPOSITORY,
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_edit_page_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has the search
}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # executes what has changed since the last build
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_execution_in_temp = True
nb_merge_streams = True  # one block of output for each cell

# GitHub adds the anchors of its pages by JavaScript.
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]

copybutton_selector = "div.highlight pre:not(.cell_output pre)"
copybutton_prompt_text = "$ "  # of a block with prompts, only the commands are copied
copybutton_line_continuation_character = "\\"

autodoc_typehints = "none"  # the docstrings have types, shapes and units
autodoc_member_order = "bysource"
napoleon_attr_annotations = False
napoleon_use_ivar = True  # attributes are one list
default_role = "code"  # the docstrings mark code as Markdown does


NO_BREAK_SPACE = "\u00a0"
SPACE_IN_NUMBER = re.compile(r"(?<=\d) (?=[%±])|(?<=±) (?=\d)")
PUNCTUATION = re.compile(r"[.,;:?!)]+")

# Such as `99.13 % (98.93 to 99.29 %)` or `67 / 1,029`.
NUMBERS = re.compile(
    r"[+-]?\d[\d.,]*( / [\d,]+|, \d+)?( [%s])?( ± [\d.,]+)?( %)?( \([\d.,to %s+-]+\))?"
)


def add_math(translator: HTML5Translator, node: nodes.Element) -> None:
    """Writes a formula as MathML."""
    formula = node.astext().replace("{aligned}", "{align*}")
    is_block = isinstance(node, nodes.math_block)
    mathml = convert(formula, display="block" if is_block else "inline")
    if is_block:  # which a keyboard can scroll
        mathml = f'<div class="math-block" tabindex="0">{mathml}</div>'
    elif "punctuation" in node:  # which stays on the line of the formula
        mathml = f'<span class="formula">{mathml}{node["punctuation"]}</span>'
    translator.body.append(mathml)
    raise nodes.SkipNode


def change_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Lets links lead to files of the repository, and lists the settings.

    Links to the section on the drawing page lead to the page that the site has.
    """
    source[0] = source[0].replace("](../", f"]({REPOSITORY}/blob/main/")
    source[0] = source[0].replace("commands.md#drawing-page", f"{SITE}draw.html")
    source[0] = source[0].replace("<!-- settings -->", list_settings())


def control_line_breaks(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Says where browsers break lines of a page."""
    mark_widths(doctree)
    join_punctuation(doctree)
    join_numbers(doctree)


def mark_widths(doctree: nodes.document) -> None:
    """Marks cells of numbers, which stay on a line, and code longer than a phone."""
    for entry in doctree.findall(nodes.entry):
        if NUMBERS.fullmatch(entry.astext()):
            entry["classes"].append("number")
    for code in doctree.findall(nodes.literal):
        if any(len(word) > 30 for word in code.astext().split()):
            code["classes"].append("long")


def join_punctuation(doctree: nodes.document) -> None:
    """Moves punctuation after a formula into it, so that no line begins with it."""
    for formula in doctree.findall(nodes.math):
        following = formula.next_node(descend=False, siblings=True)
        if isinstance(following, nodes.Text) and (mark := PUNCTUATION.match(following)):
            formula["punctuation"] = mark[0]
            rest = nodes.Text(following[mark.end() :])
            following.parent.replace(following, rest)


def join_numbers(doctree: nodes.document) -> None:
    """Keeps a number on the line of its unit, and of its uncertainty."""
    for paragraph in doctree.findall(nodes.paragraph):
        for text in list(paragraph.findall(nodes.Text)):
            if not isinstance(text.parent, nodes.literal | nodes.math):
                joined = SPACE_IN_NUMBER.sub(NO_BREAK_SPACE, text)
                text.parent.replace(text, nodes.Text(joined))


def list_settings() -> str:
    """Returns a table of the settings of each section, with a link to each of them."""
    lines = []
    section = None
    for name, setting in SETTINGS.items():
        if section != (section := name.rpartition(".")[0]):
            title = f"Settings of `{section}`" if section else "Settings of the run"
            lines += [
                "",
                f"### {title}",
                "",
                "| setting | default | |",
                "| - | - | - |",
            ]
        breakable = name.replace(".", ".<wbr>").replace("_", "_<wbr>")
        link = f'<a id="{name}" href="#{name}"><code>{breakable}</code></a>'
        about = f"{setting.help} ({setting.allowed})".replace("|", r"\|")
        about = re.sub(r",(?=[a-z])", ",<wbr>", about)
        default = setting.default_help
        if default == str(setting.default):  # it is no description
            default = f"`{default}`"
        lines.append(f"| {link} | {default} | {about} |")
    return "\n".join(lines)


def write_drawing_page(app: Sphinx, error: Exception | None) -> None:
    """Writes the drawing page, to which `index.md` links."""
    if error is None and app.builder.format == "html":
        page.main([f"--output={Path(app.outdir) / 'draw.html'}"])


def shorten_signature(
    app: Sphinx,
    what: str,
    name: str,
    found: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None] | None:
    """Shortens the signatures of settings and of records.

    A table has the defaults of the settings of a section. Records are not created by
    users, and their fields are listed.
    """
    if not isinstance(found, type):
        return None
    if issubclass(found, ConfigSection):
        return "(**settings)", None
    if issubclass(found, tuple | msgspec.Struct) or dataclasses.is_dataclass(found):
        return "", None
    return None


def describe_page(
    app: Sphinx,
    name: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Describes a page to search engines, and offers the notebook of a tutorial."""
    if doctree is None:
        return
    if name == app.config.root_doc:
        context["title"] = "Recurrent networks in JAX and Flax"
    paragraph = next(iter(doctree.findall(nodes.paragraph)), None)
    if paragraph is not None:
        text = textwrap.shorten(paragraph.astext(), 200, placeholder=" …")
        for attribute, value in {
            'name="description"': text,
            'property="og:title"': context["title"],
            'property="og:description"': text,
            'property="og:image"': f"{SITE}_images/drawing_page.png",
        }.items():
            content = html.escape(value)
            context["metatags"] += f'\n<meta {attribute} content="{content}" />'
    notebook = NOTEBOOKS / f"{name}.ipynb"
    if notebook.exists():
        sources = Path(app.outdir) / "_sources"
        sources.mkdir(exist_ok=True)
        shutil.copy(notebook, sources)
        context["ipynb_source"] = notebook.name


def setup(app: Sphinx) -> None:
    """Connects the events of a build."""
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("html-page-context", describe_page, priority=400)  # before the theme
    app.add_html_math_renderer("mathml", (add_math, None), (add_math, None))
    app.connect("source-read", change_source)
    app.connect("doctree-resolved", control_line_breaks)
    app.connect("build-finished", write_drawing_page)
