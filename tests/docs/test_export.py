"""The page on exports: its commands, Python and JavaScript run as they stand."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trainer
from support import code_blocks, run_block

import rnnmnist

COMMANDS, PYTHON, JAVASCRIPT = (
    code_blocks("docs/export.md", language) for language in ("sh", "python", "js")
)


@pytest.mark.slow
def test_the_page_runs(
    tmp_path: Path, environment: dict[str, str], reference_run: Path
) -> None:
    trainer.copy_of(reference_run, tmp_path / "checkpoints/embedded")
    run = partial(run_block, folder=tmp_path, environment=environment)
    output = run("sh", COMMANDS[1])
    assert output.count("500 of 500 predictions are equal") == 2
    assert "step.onnx: 256 of 256 predictions are equal" in output
    for block in PYTHON:
        assert run("python", block)
    (stream,) = (block for block in PYTHON if "step.onnx" in block)
    network = rnnmnist.load(tmp_path / "checkpoints/embedded")
    levels = np.eye(28, dtype=np.uint8) * 255
    (whole,) = network.classify(levels[None], every_step=True)
    streamed = [line.split() for line in run("python", stream).splitlines()]
    assert [int(digit) for digit, _ in streamed] == whole.argmax(axis=1).tolist()
    printed = np.array([float(probability) for _, probability in streamed])
    np.testing.assert_allclose(printed, whole.max(axis=1), atol=1e-5)
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed: the JavaScript is not run")
    install = ["npm", "install", "--no-audit", "--no-fund", "onnxruntime-web@1.22.0"]
    if subprocess.run(install, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("onnxruntime-web cannot be installed: the JavaScript is not run")
    (tmp_path / "page.mjs").write_text(JAVASCRIPT[0])
    assert run("sh", "node page.mjs").startswith("[ 2, 10 ]")
