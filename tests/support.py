"""What tests share besides fixtures: paths, small meshes, examples, command lines."""

import dataclasses
import importlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from rnnmnist.data.datasets import Examples
from rnnmnist.errors import UserError
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runtime.mesh import BATCH, SEEDS

REPOSITORY = Path(__file__).resolve().parent.parent
# The folder of the original data files, which are optional; see CONTRIBUTING.md.
ORIGINALS = Path(os.environ.get("RNNMNIST_ORIGINALS", "no originals"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Command = Callable[..., subprocess.CompletedProcess[str]]
Once = Callable[[str, Callable[[Path], None]], Path]  # see conftest.py


def mesh_of(count: int) -> Mesh:
    """A mesh of some of the eight simulated devices."""
    devices = np.array(jax.devices()[:count])[None]
    return Mesh(devices, (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2)


def random_examples(count: int, seed: int = 0) -> Examples:
    """Images of noise, each different from every other, and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    return Examples(images, generator.integers(0, 10, count, np.uint8))


def abstract_params(model: SequenceClassifier, columns: int = 28) -> Params:
    """The shapes and types of the parameters of a network, compiled for nothing."""
    whole = dataclasses.replace(model, remat_rows=None)
    images = jnp.zeros((1, 1, columns))
    return jax.eval_shape(lambda: whole.init(jax.random.key(0), images))["params"]


def random_params(model: SequenceClassifier, columns: int = 28) -> Params:
    """Parameters none of which is zero, nor small; NumPy's, compiled for nothing."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (0.35 * generator.normal(size=leaf.shape)).astype(np.float32),
        abstract_params(model, columns),
    )


def refused(name: str, *arguments: object) -> str:
    """The message with which a command refuses its arguments, called in this process.

    `errors.run` prints it as one line and exits with 2, which the tests of each command
    as a process check.

    Args:
        name: of the command, as in `python -m rnnmnist.NAME`.
        arguments: of its command line.
    """
    module = importlib.import_module(f"rnnmnist.{name}")
    with pytest.raises(UserError) as error:
        module.main([str(argument) for argument in arguments])
    message = str(error.value)
    assert "\n" not in message
    return message


def one_line_error(finished: subprocess.CompletedProcess[str]) -> str:
    """The single line of a refused command, which exited 2."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in finished.stdout
    return lines[0]


def in_a_browser(test: Any) -> Any:
    """Marks what opens pages: slow, and skipped where nothing can open them."""
    reason = "no chromium on the PATH: no page was opened"
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))
