"""Converts the pages of the tutorial to notebooks for Colab.

    python tools/tutorial.py

A notebook contains the cells of a page, with these changes:

- The notebook first installs the package, like notebooks/colab.ipynb, from the source
  in its first line of code.
- Content in <details>, such as optional boxes and answers, becomes folded text,
  including its code, so that "Run all" does not run it. An empty cell precedes each
  answer.
- The code of a file that the page loads becomes a folded cell. Its title is the comment
  in the first line of the file.
- Cells that only check the page are removed.
"""

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [
    REPOSITORY / "docs" / f"tutorial_{part}.md"
    for part in ("train", "gradients", "trust")
]
COLAB = REPOSITORY / "notebooks/colab.ipynb"
CODE = "```{code-cell}"
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
ANSWER = "<details><summary>Answer</summary>"
INSTALL = """\
## Install

First set `REPOSITORY` to the address that you would clone, or to the path of a clone or
of a wheel. The installation takes a minute, and replaces no package of the runtime."""
EMPTY = f"{CODE}\n# Your turn\n```\n\n"


def notebook_of(page: Path) -> Path:
    """Returns the path of a page's notebook."""
    return REPOSITORY / "notebooks" / f"{page.stem}.ipynb"


def links_from_notebook(text: str, page: str) -> str:
    """Rewrites relative links for the folder of the notebooks.

    Args:
        text: Markdown from the page.
        page: the name of the page.
    """
    text = text.replace("](#", f"]({page}.md#")
    return re.sub(r"\]\((?=\w+\.(md|png|svg))", "](../docs/", text)


def folded_text(page: str) -> str:
    """Converts folded code cells to text, and adds an empty cell before each answer."""
    page = FOLDED.sub(lambda found: found[0].replace(CODE, "```python"), page)
    return page.replace(ANSWER, EMPTY + ANSWER)


def installation() -> list[Any]:
    """Returns cells that install the package."""
    cells = nbformat.read(COLAB, as_version=4).cells
    code = {cell.id: cell.source for cell in cells if cell.cell_type == "code"}
    return [
        nbformat.v4.new_markdown_cell(INSTALL),
        nbformat.v4.new_code_cell(code["settings"].splitlines()[0]),
        nbformat.v4.new_code_cell(code["install"]),
    ]


def convert(page: Path) -> str:
    """Converts a page to a notebook, as JSON."""
    notebook = jupytext.reads(folded_text(page.read_text()), fmt="md:myst")
    first, *others = notebook.cells
    title, heading, rest = first.source.partition("\n## ")
    start = nbformat.v4.new_markdown_cell(title)
    others.insert(0, nbformat.v4.new_markdown_cell(heading.strip() + " " + rest))
    cells = [start, *installation()]
    for cell in others:
        tags = cell.metadata.pop("tags", [])
        if "remove-cell" in tags:
            continue
        if "load" in cell.metadata:
            code = (page.parent / cell.metadata["load"]).read_text().strip()
            cell.metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
            cell.source = f"# @title {code.removeprefix('# ')}"
        cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "markdown":
            source = re.sub(r"<!--.*\n?", "", cell.source)
            cell.source = links_from_notebook(source, page.stem).strip()
    notebook.cells = [cell for cell in cells if cell.source]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    for page in PAGES:
        notebook_of(page).write_text(convert(page))
