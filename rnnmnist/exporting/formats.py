"""The export formats. This module does not import JAX, so that `--help` is fast."""

# The packages that each format requires in addition to JAX. For the format NAME, the
# module `NAME_model.py` serializes and loads the content of `model.NAME`.
FORMATS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}
