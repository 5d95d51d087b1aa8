"""Renders the drawing page, on which networks classify digits in the browser.

The page contains float16 weights, sample digits, and an LSTM in JavaScript. A test
compares the logits of JavaScript and Python.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.config.functions import short_name
from rnnmnist.data import image_datasets
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Network
from rnnmnist.inference import preprocessing
from rnnmnist.inference.digit_images import check_digits
from rnnmnist.models.lstm import GATES
from rnnmnist.models.parameters import Params
from rnnmnist.reporting import html
from rnnmnist.runtime.mesh import split_ensemble

FOLDER = Path(__file__).parent
STROKE_WIDTH = 2.3  # pixels; thinner than in MNIST, so that loops stay open
# The page supports only networks with these settings.
SUPPORTED = {
    "model.cell": "lstm",
    "model.num_layers": 1,
    "model.pooling": "last",
    "model.window": 1,
    "model.bidirectional": False,
    "model.deltas": False,
    "data.view": "rows",
    "num_seeds": 1,
}


def render(networks: Sequence[Network]) -> str:
    """Renders the page as HTML.

    The page shows all networks side by side.
    """
    for network in networks:
        check_digits(network)
        settings = network.config.flat()
        for name, value in SUPPORTED.items():
            if settings[name] != value:
                raise UserError(
                    f"workdir: {network.workdir} has {name}={settings[name]}, but the "
                    f"page supports only {name}={value}; choose another run"
                )
    entries = []
    for network in networks:
        (params,) = split_ensemble(network.params)
        entries.append(
            {
                "title": Path(str(network.workdir)).name,
                "loss": short_name(network.config.train.loss),
                "units": network.config.model.hidden_size,
                "temperature": network.temperature,
                "params": encode_params(params),
            }
        )
    data = {
        "networks": entries,
        "samples": select_samples(),
        "format": {
            "side": preprocessing.IMAGE_SIDE,
            "box": preprocessing.BOX_SIDE,
            "centre": preprocessing.CENTRE,
            "strokeWidth": STROKE_WIDTH,
        },
    }
    return html.render(
        FOLDER / "page.html",
        content=data,
        weight_counts=[network.num_parameters for network in networks],
        **{path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.js")},
    )


def select_samples() -> list[dict[str, Any]]:
    """Selects sample digits from the embedded test split, which is sorted by digit."""
    images, labels = image_datasets.embedded_images()["test"]
    return [
        {"pixels": _encode_base64(image), "label": int(label)}
        for image, label in zip(images[::25], labels[::25], strict=True)
    ]


def encode_params(params: Params) -> dict[str, str]:
    """Encodes parameters as float16 in Base64, keyed by their names in JavaScript.

    The gates are concatenated along the last axis. Rounding to float16 does not change
    the predictions of the reference models.
    """
    cell, head = params["cell"], params["head"]

    def fuse(prefix: str, name: str) -> np.ndarray:
        return np.concatenate([cell[prefix + gate][name] for gate in GATES], axis=-1)

    arrays = {
        "row": fuse("i", "kernel"),
        "hidden": fuse("h", "kernel"),
        "bias": fuse("h", "bias"),
        "head": head["kernel"],
        "headBias": head["bias"],
    }
    return {name: _encode_base64(array.astype("<f2")) for name, array in arrays.items()}


def _encode_base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
