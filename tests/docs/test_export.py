"""The page on exports: its commands, Python and JavaScript run as they stand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trainer
from support import REPOSITORY

from rnnmnist.exporting import predict_safetensors

PAGE = (REPOSITORY / "docs" / "export.md").read_text()


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_page_shows_the_numpy_reader() -> None:
    text = Path(predict_safetensors.__file__).read_text()
    assert text in blocks("python")


@pytest.mark.slow
def test_the_page_runs(
    tmp_path: Path, environment: dict[str, str], reference_run: Path
) -> None:
    trainer.copy_of(reference_run, tmp_path / "checkpoints/embedded")

    def run(*arguments: str) -> str:
        finished = subprocess.run(
            arguments, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    (commands,) = (block for block in blocks("sh") if "rnnmnist" in block)
    output = run("bash", "-ec", commands.replace("python", sys.executable))
    assert output.count("500 of 500 predictions are equal") == 3
    assert output.count(": unchanged") == 3
    for block in blocks("python"):
        if "def predict" not in block:
            assert run(sys.executable, "-c", block)
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed: the JavaScript is not run")
    install = ["npm", "install", "--no-audit", "--no-fund", "onnxruntime-web@1.22.0"]
    if subprocess.run(install, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("onnxruntime-web cannot be installed: the JavaScript is not run")
    (script,) = blocks("js")
    (tmp_path / "page.mjs").write_text(script)
    assert run("node", "page.mjs").startswith("[ 2, 10 ]")
