"""The drawing page: networks classify a drawn digit row by row in a browser.

The page is one HTML file that loads no other file. It contains the weights as float16,
sample digits, and JavaScript versions of the LSTM and of the out-of-distribution check.
Tests compare their results with Python's.
"""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.config.schema import Config
from rnnmnist.data import datasets
from rnnmnist.errors import UserError
from rnnmnist.inference import out_of_distribution, preprocessing
from rnnmnist.inference.predictor import Predictor
from rnnmnist.models.classifier import Params, count_params
from rnnmnist.models.lstm import FusedParams
from rnnmnist.reporting import html
from rnnmnist.runtime.ensemble import split_ensemble

FOLDER = Path(__file__).parent
SCRIPTS = ("network", "drawing", "view")
TITLES = {"last": "Last-row loss", "every_step": "Every-row loss"}
EASY_PER_DIGIT = 2  # easy samples
MIN_EASY_PROBABILITY = 0.95  # of an easy sample's label
HARD = 12  # hard samples, over all digits
STROKE_WIDTH = 2.3  # pixels of 28; narrower than MNIST's, so that loops stay open
MAX_UNITS = 512  # limits the size of the page


class Network(NamedTuple):
    """A trained LSTM."""

    name: str  # of its run
    predictor: Predictor

    @property
    def loss(self) -> str:
        """The setting `train.loss`: `last` or `every_step`."""
        return self.predictor.config.train.loss

    @property
    def params(self) -> Params:
        """The parameters, with Flax's names."""
        (params,) = split_ensemble(self.predictor.params)
        return params


def load_network(workdir: Path) -> Network:
    """Restores the network of a run at its best step."""
    predictor = Predictor(workdir)
    predictor.check_digits()
    check_supported(workdir, predictor.config)
    return Network(workdir.name, predictor)


def check_supported(workdir: Path, config: Config) -> None:
    """Checks that the page can show a run's network."""
    settings = config.flat()
    for name, needed, reason in (
        ("model.cell", "lstm", "shows the gates of an LSTM"),
        ("model.pooling", "last", "reads the last state"),
        ("data.view", "rows", "draws row by row"),
        ("num_seeds", 1, "shows one network per run"),
    ):
        if settings[name] != needed:
            raise UserError(
                f"workdir: {workdir} has {name}={settings[name]}, but the page "
                f"{reason}; name a run with {name}={needed}"
            )
    if config.model.hidden_size > MAX_UNITS:
        raise UserError(
            f"workdir: {workdir} has model.hidden_size={config.model.hidden_size}, "
            f"but the page supports at most {MAX_UNITS} units; name a smaller run"
        )


def render(networks: Sequence[Network]) -> str:
    """Renders the page as HTML.

    The networks are shown side by side. The first one selects the samples.
    """
    losses = [network.loss for network in networks]
    check = out_of_distribution.load()
    data = {
        "networks": [
            {
                "title": TITLES[network.loss]
                + (f": {network.name}" if losses.count(network.loss) > 1 else ""),
                "loss": network.loss,
            }
            | _weights(FusedParams.create(network.params))
            for network in networks
        ],
        "outOfDistribution": {"maxScore": check.max_score} | _weights(check.network),
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
        FOLDER / "style.css",
        content=data,
        units=_join(len(network.params["head"]["kernel"]) for network in networks),
        weights=_join(count_params(network.params) for network in networks),
        **{name: (FOLDER / f"{name}.js").read_text("utf-8") for name in SCRIPTS},
    )


def select_samples(network: Network) -> list[dict[str, Any]]:
    """Selects easy and hard digits of the embedded test split.

    The easy samples are the first ones of each digit that the network classifies
    correctly with high probability and that pass the out-of-distribution check. The
    hard samples are those for whose label the network's probability is lowest.
    """
    images, labels = datasets.embedded_images()["test"]
    probabilities = network.predictor.classify(images, every_step=True)[:, -1]
    of_label = probabilities[np.arange(len(labels)), labels]
    is_digit = out_of_distribution.load().is_digit(images)
    clear = (of_label >= MIN_EASY_PROBABILITY) & is_digit
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


def _join(counts: Iterable[int]) -> str:
    """Lists distinct counts: `128`, or `64 or 128`."""
    return " or ".join(f"{count:,}" for count in sorted(set(counts)))
