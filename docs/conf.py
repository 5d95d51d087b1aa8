"""Configuration of the documentation site.

    pip install '.[docs]'
    python -m sphinx -W docs OUT

Pages with `{code-cell}` blocks are executed; a build takes no network. Links from the
pages to other files of the repository lead to GitHub.
"""

from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

from rnnmnist import page

SOURCE_FILES = "https://github.com/rnnmnist/rnnmnist/blob/main/"

project = "rnnmnist"
author = "The rnnmnist contributors"
version = release = installed_version("rnnmnist")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "sphinx_book_theme"
html_title = "rnnmnist"
html_theme_options = {
    "repository_url": "https://github.com/rnnmnist/rnnmnist",
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
nb_code_prompt_show = "Show the answer"  # the only cells that are folded
nb_code_prompt_hide = "Hide the answer"
nb_merge_streams = True  # one block of output for each cell

# GitHub adds the anchors of its pages by JavaScript.
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]

autodoc_typehints = "none"  # the docstrings have types, shapes and units
autodoc_member_order = "bysource"
default_role = "code"  # the docstrings mark code as Markdown does


def link_to_repository(app: Sphinx, name: str, source: list[str]) -> None:
    """Lets the links of a page to files outside of `docs/` lead to GitHub."""
    source[0] = source[0].replace("](../", f"]({SOURCE_FILES}")


def write_drawing_page(app: Sphinx, error: Exception | None) -> None:
    """Writes the drawing page, which `index.md` embeds."""
    if error is None and app.builder.format == "html":
        page.main([f"--output={Path(app.outdir) / 'draw.html'}"])


def setup(app: Sphinx) -> None:
    """Connects the events of a build."""
    app.connect("source-read", link_to_repository)
    app.connect("build-finished", write_drawing_page)
