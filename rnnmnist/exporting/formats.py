"""The export formats. Importing this module does not import JAX, for `--help`."""

# The packages, in addition to JAX, that write and run each format. `write_NAME.py`
# writes `model.NAME`, and `load_NAME` in `comparison.py` loads it.
FORMATS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",)}
