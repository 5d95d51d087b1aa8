"""The drawing page: networks classify a drawn digit row by row in a browser.

The page contains the weights as float16, sample digits, and a JavaScript version of the
LSTM. A test compares its logits with Python's.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.data import image_sets
from rnnmnist.errors import UserError
from rnnmnist.inference import preprocessing
from rnnmnist.inference.predictor import Predictor
from rnnmnist.models.classifier import count_params
from rnnmnist.models.lstm import FusedParams
from rnnmnist.reporting import html
from rnnmnist.runtime.mesh import split_ensemble

FOLDER = Path(__file__).parent
TITLES = {"last": "Last-row loss", "every_step": "Every-row loss"}
EASY_PER_DIGIT = 2  # easy samples
MIN_EASY_PROBABILITY = 0.95  # that of its label
HARD = 12  # hard samples, over all digits
STROKE_WIDTH = 2.3  # pixels of 28; narrower than MNIST's, so that loops stay open
# Settings of the networks that the page can show.
SUPPORTED = {
    "model.cell": "lstm",
    "model.pooling": "last",
    "model.window": 1,
    "model.bidirectional": False,
    "model.differences": False,
    "data.view": "rows",
    "num_seeds": 1,
}


def render(networks: Sequence[Predictor]) -> str:
    """Renders the page as HTML.

    The networks are shown side by side. The first one selects the samples.
    """
    for network in networks:
        network.check_digits()
        settings = network.config.flat()
        for name, needed in SUPPORTED.items():
            if settings[name] != needed:
                raise UserError(
                    f"workdir: {network.workdir} has {name}={settings[name]}, but the "
                    f"page shows networks with {name}={needed} only; name another run"
                )
    losses = [network.config.train.loss for network in networks]
    params = [split_ensemble(network.params)[0] for network in networks]
    data = {
        "networks": [
            {
                "title": TITLES[loss]
                + (f": {network.workdir.name}" if losses.count(loss) > 1 else ""),
                "loss": loss,
            }
            | _weights(FusedParams.create(tree))
            for network, loss, tree in zip(networks, losses, params, strict=True)
        ],
        "samples": select_samples(networks[0]),
        "format": {
            "side": preprocessing.SIDE,
            "box": preprocessing.BOX,
            "centre": preprocessing.CENTRE,
            "strokeWidth": STROKE_WIDTH,
        },
    }
    return html.render(
        FOLDER / "page.html",
        content=data,
        unit_counts=[len(tree["head"]["kernel"]) for tree in params],
        weight_counts=[count_params(tree) for tree in params],
        **{path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.js")},
    )


def select_samples(network: Predictor) -> list[dict[str, Any]]:
    """Selects easy and hard digits of the embedded test split.

    The easy samples are the first ones of each digit to whose label the network assigns
    a high probability. The hard samples are those for whose label it is lowest.
    """
    images, labels = image_sets.embedded_images()["test"]
    probabilities = network.classify(images)
    of_label = probabilities[np.arange(len(labels)), labels]
    clear = of_label >= MIN_EASY_PROBABILITY
    easy = [
        index
        for k in range(EASY_PER_DIGIT)
        for digit in range(probabilities.shape[1])
        for index in np.flatnonzero((labels == digit) & clear)[k : k + 1]
    ]
    hardest = of_label.argsort(kind="stable")[:HARD]
    return [
        {"pixels": _base64(images[i]), "label": int(labels[i]), "hard": i not in easy}
        for i in dict.fromkeys([*easy, *hardest])
    ]


def _weights(arrays: FusedParams) -> dict[str, Any]:
    """Encodes weights as float16; of the reference models, no prediction changes."""
    names = ("row", "hidden", "bias", "head", "headBias")  # in JavaScript
    params = {
        name: _base64(np.asarray(array, "<f2"))
        for name, array in zip(names, arrays, strict=True)
    }
    return {"units": len(arrays.head), "params": params}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
