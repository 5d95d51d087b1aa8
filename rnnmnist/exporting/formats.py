"""The formats of exports: what a folder of each contains.

The packages of a format are imported when it is written, and none of this package by
the parser of the command, which needs the names alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rnnmnist.exporting.source import Source


class Format(NamedTuple):
    """A format of exports, whose folders also contain a `predict.py`."""

    artefact: str  # the file with the parameters
    packages: tuple[str, ...]  # that write it, and as the last one, that runs it
    write: Callable[["Source", Path], None]  # all files but `predict.py` into a folder


def write_onnx(source: "Source", folder: Path) -> None:
    """Writes the ONNX model, with the classes and its origin as metadata."""
    import onnx

    from rnnmnist.exporting.onnx_graph import build

    model = build(source)
    metadata = {key: json.dumps(value) for key, value in source.provenance.items()}
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, folder / "model.onnx")


def write_safetensors(source: "Source", folder: Path) -> None:
    """Writes the parameters, `config.json` for `predict.py`, and a model card."""
    from safetensors.numpy import save

    from rnnmnist.exporting.model_card import model_card
    from rnnmnist.runs.checksums import named_leaves

    leaves = named_leaves(source.params)
    arrays = {name.replace("/", "."): array for name, array in leaves}
    (folder / "model.safetensors").write_bytes(save(arrays))
    model = source.network.config.model
    order = source.pixel_order
    mean, std, missing = source.network.normalization
    content = {
        "cell": model.cell,
        "hidden_size": model.hidden_size,
        "num_layers": model.num_layers,
        "pooling": model.pooling,
        "pixel_order": None if order is None else order.tolist(),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "missing": missing,
        "provenance": source.provenance,
    }
    (folder / "config.json").write_text(json.dumps(content) + "\n")
    (folder / "README.md").write_text(model_card(source), "utf-8")


def write_stablehlo(source: "Source", folder: Path) -> None:
    """Writes the program that `jax.export` serializes."""
    from rnnmnist.exporting.stablehlo import build

    (folder / "model.stablehlo").write_bytes(build(source))


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxruntime"), write_onnx),
    "safetensors": Format(
        "model.safetensors", ("safetensors", "numpy"), write_safetensors
    ),
    "stablehlo": Format("model.stablehlo", ("flatbuffers", "jax"), write_stablehlo),
}
