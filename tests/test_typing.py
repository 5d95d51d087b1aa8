"""The package's types, as mypy sees them in programs that call the package.

mypy reports unused `type: ignore` comments. A line with this comment is thus an error.
"""

from pathlib import Path

import numpy as np
import pytest
from support import code_blocks, run_python

import rnnmnist


def test_misspelt_names_are_refused(tmp_path: Path) -> None:
    inputs, labels = np.zeros((4, 3)), [0, 1, 0, 1]
    with pytest.raises(rnnmnist.UserError, match="did you mean 'num_steps'"):
        rnnmnist.fit(inputs, labels, workdir=tmp_path, num_stepz=1)
    with pytest.raises(rnnmnist.UserError, match="an integer"):
        rnnmnist.fit(inputs, labels, workdir=tmp_path, num_steps="x")
    with pytest.raises(AttributeError, match="fti"):
        rnnmnist.fti  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(rnnmnist.UserError, match="validation"):
        rnnmnist.load().evaluate("valid")  # type: ignore[arg-type]
    with pytest.raises(rnnmnist.UserError, match="stablehlo"):
        rnnmnist.load().export("onxx", "x")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_program_of_the_reference_page_is_typed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The program is outside of the package, like users' programs."""
    pytest.importorskip("mypy")
    blocks = code_blocks("docs/reference.md", "python")
    (program,) = (block for block in blocks if "import NDArray" in block)
    (tmp_path / "service.py").write_text(program)
    finished = run_python(
        "-m", "mypy", "--strict", "service.py", environment=environment, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stdout
