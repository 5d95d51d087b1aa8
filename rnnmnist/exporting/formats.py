"""The formats of exports. It imports no jax: the command's parser lists them."""

import importlib.util
from collections.abc import Sequence

from rnnmnist.errors import UserError

# The packages of each format, which write it and run it. `write_NAME.py` writes
# `model.NAME`, and `predict_NAME.py` runs it.
FORMATS = {
    "onnx": ("onnx", "onnxruntime"),
    "stablehlo": ("flatbuffers", "jax"),
}
# Of the gated cells that all formats support: the gates in ONNX's order, as in Flax.
GATES = {"lstm": ("i", "o", "f", "g"), "gru": ("z", "r", "n"), "rnn": ("",)}
SUPPORTED_CELLS = (*GATES, "mingru", "lru")


def check_packages(names: Sequence[str]) -> None:
    """Checks that the packages of formats are installed."""
    packages = [package for name in names for package in FORMATS[name]]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format: {' and '.join(missing)} must be installed for it: "
            f"pip install {' '.join(missing)}"
        )
