"""The commands, Python and JavaScript of the page on exports run unchanged."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trainer
from support import code_blocks, run_block

COMMANDS, PYTHON, JAVASCRIPT = (
    code_blocks("docs/export.md", language) for language in ("sh", "python", "js")
)


@pytest.mark.slow
def test_the_code_of_the_page_runs(
    tmp_path: Path, environment: dict[str, str], reference_run: Path
) -> None:
    trainer.copy_of(reference_run, tmp_path / "checkpoints/embedded")
    run = partial(run_block, folder=tmp_path, environment=environment)
    output = run("sh", COMMANDS[1])
    assert output.count("500 of 500 predictions are equal") == 2
    for block in PYTHON:
        assert run("python", block)
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed: the JavaScript is not run")
    install = ["npm", "install", "--no-audit", "--no-fund", "onnxruntime-web@1.22.0"]
    if subprocess.run(install, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("onnxruntime-web cannot be installed: the JavaScript is not run")
    (tmp_path / "page.mjs").write_text(JAVASCRIPT[0])
    assert run("sh", "node page.mjs").startswith("[ 2, 10 ]")
