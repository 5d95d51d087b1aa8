"""The formats of exports. It imports no jax: the command's parser lists them."""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from rnnmnist.errors import UserError


class Format(NamedTuple):
    """A format, which `write_NAME.py` writes and `predict_NAME.py` runs."""

    artefact: str  # the file with the parameters
    packages: tuple[str, ...]  # that write it, and as the last one, that runs it


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxruntime")),
    "safetensors": Format("model.safetensors", ("safetensors", "numpy")),
    "stablehlo": Format("model.stablehlo", ("flatbuffers", "jax")),
}


def check_packages(names: Sequence[str]) -> None:
    """Checks that the packages of formats are installed."""
    needed = [package for name in names for package in FORMATS[name].packages]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format: {' and '.join(missing)} must be installed for it: "
            f"pip install {' '.join(missing)}"
        )
