"""Converts the pages of the tutorial to notebooks for Colab.

    python tools/tutorial.py

A notebook has the cells of its page, except hidden checks. Before them, it installs the
package, as notebooks/colab.ipynb does. Boxes and answers, which the page folds in
<details>, become folded text with their code, so that "Run all" skips them; an empty
cell precedes each answer. A file that the page loads becomes a folded cell, whose title
is the first line of the file, a comment.
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
    """Returns the path of the notebook of a page."""
    return REPOSITORY / "notebooks" / f"{page.stem}.ipynb"


def links_from_notebook(text: str, page: str) -> str:
    """Lets links of a page lead to the same files from the folder of the notebooks.

    `page` is the name of the page that has the text.
    """
    text = text.replace("](#", f"]({page}.md#")
    return re.sub(r"\]\((?=\w+\.(md|png|svg))", "](../docs/", text)


def folded_text(page: str) -> str:
    """Turns folded code cells into text, and adds an empty cell before each answer."""
    page = FOLDED.sub(lambda found: found[0].replace(CODE, "```python"), page)
    return page.replace(ANSWER, EMPTY + ANSWER)


def installation() -> list[Any]:
    """Returns the cells that install the package."""
    cells = nbformat.read(COLAB, as_version=4).cells
    code = {cell.id: cell.source for cell in cells if cell.cell_type == "code"}
    return [
        nbformat.v4.new_markdown_cell(INSTALL),
        nbformat.v4.new_code_cell(code["settings"].splitlines()[0]),
        nbformat.v4.new_code_cell(code["install"]),
    ]


def convert(page: Path) -> str:
    """Returns the notebook of a page, as JSON."""
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
