"""Makes notebooks/tutorial.ipynb, for Colab, from docs/tutorial.md.

    python tools/tutorial.py

The cells of the notebook are those of the page. The notebook installs the package
first, as notebooks/colab.ipynb does. Cells that only check the page are left out, and
answers to exercises, which the page has in <details>, are folded as Colab folds cells.
"""

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs/tutorial.md"
NOTEBOOK = REPOSITORY / "notebooks/tutorial.ipynb"
COLAB = REPOSITORY / "notebooks/colab.ipynb"
GITHUB = "https://github.com/rnnmnist/rnnmnist"
RAW = "https://raw.githubusercontent.com/rnnmnist/rnnmnist/main/docs/"
ANSWER = "<details><summary>Answer</summary>"  # before the cell of an answer
SOURCE = f'SOURCE = "git+{GITHUB}"  # @param {{type:"string"}}'


def absolute_links(text: str) -> str:
    """Lets images and links to other files lead to GitHub."""
    text = re.sub(r"(!\[[^\]]*\]\()(?=\w+\.(png|svg))", rf"\1{RAW}", text)
    text = text.replace(".svg)", ".svg?sanitize=true)")  # for its content type
    text = re.sub(r"\]\(\.\./", f"]({GITHUB}/blob/main/", text)
    text = text.replace("](#", f"]({PAGE.name}#")
    return re.sub(r"\]\((?=\w+\.md)", f"]({GITHUB}/blob/main/docs/", text)


def installation() -> list[Any]:
    """Returns the cells that install the package."""
    cells = nbformat.read(COLAB, as_version=4).cells
    (install,) = (cell.source for cell in cells if cell.id == "install")
    text = "## Install\n\nThis takes a minute, and replaces no package of the runtime."
    return [
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell(SOURCE),
        nbformat.v4.new_code_cell(install),
    ]


def convert(page: str) -> str:
    """Returns the notebook of a page, as JSON."""
    notebook = jupytext.reads(page, fmt="md:myst")
    first, *others = notebook.cells
    title, heading, rest = first.source.partition("\n## ")
    start = nbformat.v4.new_markdown_cell(title)
    others.insert(0, nbformat.v4.new_markdown_cell(heading.strip() + " " + rest))
    cells = [start, *installation()]
    for cell in others:
        if "remove-cell" in cell.metadata.pop("tags", []):
            continue
        if cells[-1].source.endswith(ANSWER):
            cell.metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
            cell.source = f"# @title Answer\n{cell.source.lstrip()}"
        cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "markdown":
            source = re.sub(r"(<!--|</?details>).*\n?", "", cell.source)
            cell.source = absolute_links(source).strip()
    notebook.cells = [cell for cell in cells if cell.source]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(convert(PAGE.read_text()))
