"""The formats of exports. Importing this module imports no jax, as `--help` does."""

import importlib.util
from collections.abc import Sequence

from rnnmnist.errors import UserError

# The packages that write and run each format, besides jax. `write_NAME.py` writes
# `model.NAME`, and `load_NAME` of `comparison.py` reads it.
FORMATS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}


def check_packages(names: Sequence[str]) -> None:
    """Checks that the packages of formats are installed."""
    packages = [package for name in names for package in FORMATS[name]]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format: {' and '.join(missing)} must be installed for it: "
            f"pip install {' '.join(missing)}"
        )
