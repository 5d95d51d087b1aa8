"""The formats of exports. Importing this module imports no jax, as `--help` does."""

# The packages that write and run each format, besides jax. `write_NAME.py` writes
# `model.NAME`, and `load_NAME` of `comparison.py` reads it.
FORMATS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}
