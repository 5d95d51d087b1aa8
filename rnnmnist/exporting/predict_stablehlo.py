"""Runs `model.stablehlo` with jax.

`load(FOLDER)(images)`, or `load(FOLDER)(sequences, lengths)`, returns the logits.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import numpy as np


def load(folder: Path) -> Callable[..., np.ndarray]:
    """Returns a function from raw examples to logits."""
    content = (folder / "model.stablehlo").read_bytes()
    network = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda *examples: np.asarray(network(*examples))
