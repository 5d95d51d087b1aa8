"""The export formats. This module does not import JAX, so that `--help` is fast."""

# The packages that writing and running each format requires, in addition to JAX.
# `write_NAME.py` writes `model.NAME`, and `load_NAME` in `comparison.py` loads it.
FORMATS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}
