"""The package's types, as mypy sees them in a program that calls the package."""

from pathlib import Path

import pytest
from support import code_blocks, run_python


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
