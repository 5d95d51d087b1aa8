"""Renders the drawing page, on which networks classify a digit in the browser.

The page contains float16 weights, sample digits, and an LSTM in JavaScript. A test
compares the logits of JavaScript and Python.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.config.functions import short_name
from rnnmnist.data import image_sets
from rnnmnist.data.examples import Inputs
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import Network
from rnnmnist.inference import preprocessing
from rnnmnist.inference.digit_images import check_digits
from rnnmnist.models.lstm import GATES
from rnnmnist.models.parameters import Params
from rnnmnist.reporting import html
from rnnmnist.runtime.mesh import split_ensemble

FOLDER = Path(__file__).parent
TITLES = {"last": "Last-row loss", "every_step": "Every-row loss"}
EASY_PER_DIGIT = 2  # easy samples
MIN_EASY_PROBABILITY = 0.95  # of the label of an easy sample
HARD = 12  # hard samples, from all digits
STROKE_WIDTH = 2.3  # pixels of 28; thinner than MNIST's, so that loops stay open
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


def render(runs: Sequence[Network]) -> str:
    """Renders the page as HTML.

    The page shows all networks side by side. The first network selects the samples.
    """
    for run in runs:
        check_digits(run)
        settings = run.config.flat()
        for name, needed in SUPPORTED.items():
            if settings[name] != needed:
                raise UserError(
                    f"workdir: {run.workdir} has {name}={settings[name]}, but the "
                    f"page shows only networks with {name}={needed}; name another run"
                )
    losses = [short_name(run.config.train.loss) for run in runs]
    networks = []
    for run, loss in zip(runs, losses, strict=True):
        (params,) = split_ensemble(run.params)
        title = TITLES.get(loss, loss)
        if losses.count(loss) > 1:
            title += f": {Path(str(run.workdir)).name}"
        networks.append(
            {
                "title": title,
                "loss": loss,
                "units": run.config.model.hidden_size,
                "temperature": run.temperature,
                "params": encode_params(params),
            }
        )
    data = {
        "networks": networks,
        "samples": select_samples(runs[0]),
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
        weight_counts=[run.num_parameters for run in runs],
        **{path.stem: path.read_text("utf-8") for path in FOLDER.glob("*.js")},
    )


def select_samples(run: Network) -> list[dict[str, Any]]:
    """Selects easy and hard digits from the embedded test split, for JavaScript.

    For each digit, the easy samples are the first images whose label gets a probability
    of at least `MIN_EASY_PROBABILITY`. The hard samples are the images with the lowest
    probabilities of the label.
    """
    images, labels = image_sets.embedded_images()["test"]
    probabilities = run.probabilities(Inputs(images))
    label_probabilities = probabilities[np.arange(len(labels)), labels]
    is_easy = label_probabilities >= MIN_EASY_PROBABILITY
    easy: list[int] = []
    for digit in range(probabilities.shape[1]):
        easy_of_digit = np.flatnonzero(is_easy & (labels == digit))
        easy += easy_of_digit[:EASY_PER_DIGIT].tolist()
    hardest = label_probabilities.argsort(kind="stable")[:HARD].tolist()
    return [
        {
            "pixels": _encode_base64(images[index]),
            "label": int(labels[index]),
            "hard": index not in easy,
        }
        for index in dict.fromkeys([*easy, *hardest])
    ]


def encode_params(params: Params) -> dict[str, str]:
    """Encodes parameters as float16 in Base64, under their names in JavaScript.

    The gates are concatenated along the last axis. Float16 does not change the
    predictions of the reference models.
    """
    cell, head = params["cell"], params["head"]

    def fuse(side: str, name: str) -> np.ndarray:
        return np.concatenate([cell[side + gate][name] for gate in GATES], axis=-1)

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
