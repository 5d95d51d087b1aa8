"""Helpers shared by tests, besides fixtures."""

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

from rnnmnist.config.platforms import DEFAULTS
from rnnmnist.config.schema import ROWS, ModelConfig
from rnnmnist.data.datasets import Examples
from rnnmnist.errors import UserError
from rnnmnist.models.classifier import Params, SequenceClassifier, make_model
from rnnmnist.runtime.mesh import BATCH, SEEDS

REPOSITORY = Path(__file__).resolve().parent.parent
# A folder with the original data files, if there is one; see CONTRIBUTING.md.
ORIGINALS = Path(os.environ.get("RNNMNIST_ORIGINALS") or "no originals")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Command = Callable[..., subprocess.CompletedProcess[str]]
Once = Callable[[str, Callable[[Path], None]], Path]  # see conftest.py


def mesh_of(count: int) -> Mesh:
    """Returns a mesh of some of the eight simulated devices."""
    devices = np.array(jax.devices()[:count])[None]
    return Mesh(devices, (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2)


def random_examples(count: int, seed: int = 0) -> Examples:
    """Returns distinct images of noise, with random labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    return Examples(images, generator.integers(0, 10, count, np.uint8))


def model_of(config: ModelConfig = ModelConfig()) -> SequenceClassifier:  # noqa: B008
    """Returns the classifier of a configuration, as the CPU runs it by default."""
    return make_model(config, DEFAULTS["cpu"])


def abstract_params(model: SequenceClassifier, columns: int = 28) -> Params:
    """Returns the shapes and types of a network's parameters, without compilation."""
    images = jnp.zeros((1, ROWS, columns))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]


def random_params(model: SequenceClassifier, columns: int = 28) -> Params:
    """Returns NumPy arrays of normal noise as parameters, without compilation."""
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (0.35 * generator.normal(size=leaf.shape)).astype(np.float32),
        abstract_params(model, columns),
    )


def refused(name: str, *arguments: object) -> str:
    """Calls `rnnmnist.NAME` in this process and returns the message of its UserError.

    That `errors.run` prints it as one line and exits with 2 is tested per command.
    """
    module = importlib.import_module(f"rnnmnist.{name}")
    with pytest.raises(UserError) as error:
        module.main([str(argument) for argument in arguments])
    message = str(error.value)
    assert "\n" not in message
    return message


def one_line_error(finished: subprocess.CompletedProcess[str]) -> str:
    """Returns the only line on stderr of a command that exited with 2."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in finished.stdout
    return lines[0]


def in_a_browser(test: Any) -> Any:
    """Marks tests that open pages as slow; skips them without a browser."""
    reason = "no chromium on the PATH"
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))
