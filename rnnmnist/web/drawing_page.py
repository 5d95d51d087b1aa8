"""A page on which people draw a digit and watch networks read it, row by row.

One file that asks for no other: the weights, sample digits, and programs in plain
JavaScript that prepare a drawing as `handwriting.py` does and read it as `model.py`
does. A test holds them together.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.config.schema import Config
from rnnmnist.data import embedded
from rnnmnist.errors import UserError
from rnnmnist.inference import out_of_distribution, preprocessing
from rnnmnist.inference.predictor import Predictor
from rnnmnist.models.classifier import Params, count_params
from rnnmnist.models.recurrence import Kernels
from rnnmnist.reporting import html

PARTS = Path(__file__).parent
TITLES = {"last": "Asked after the last row", "every_row": "Asked after every row"}
EASY, SURE = 2, 0.95  # samples of each digit, and the least probability of the truth
HARD = 12  # samples of all digits
MOST_UNITS = 512  # of a network, or a page would be more than mail takes


class Network(NamedTuple):
    """A trained LSTM."""

    name: str  # of its run
    predictor: Predictor

    @property
    def loss(self) -> str:
        """How it was asked in training: last or every_row."""
        return self.predictor.config.train.loss

    @property
    def params(self) -> Params:
        """The parameters, by Flax's names."""
        return self.predictor.params


class Sample(NamedTuple):
    """Somebody's digit."""

    pixels: np.ndarray  # uint8 [28, 28]
    label: int
    hard: bool


def restore(workdir: Path) -> Network:
    """The network of a run, at its best step.

    Raises:
        UserError: when there is no such run, or it is not of one LSTM that has learned
            digits.
    """
    predictor = Predictor(workdir)
    check(workdir, predictor.config)
    return Network(workdir.name, predictor)


def check(workdir: Path, config: Config) -> None:
    """Holds that the page can show a run's network.

    Raises:
        UserError: when it cannot.
    """
    if config.model.cell != "lstm":
        raise UserError(
            f"--workdir: {workdir} is of model.cell={config.model.cell}, and the page "
            "shows an LSTM's gates; name a run with model.cell=lstm"
        )
    if config.model.hidden_size > MOST_UNITS:
        raise UserError(
            f"--workdir: {workdir} has model.hidden_size={config.model.hidden_size}, "
            f"and the page carries at most {MOST_UNITS} units; name a smaller run"
        )
    if config.num_seeds > 1:
        raise UserError(
            f"--workdir: {workdir} is a stack of {config.num_seeds} seeds, and the "
            "page shows one network; name a run with num_seeds=1"
        )


def page(networks: Sequence[Network]) -> str:
    """The page as HTML.

    Args:
        networks: side by side on it; the first one chooses the hard samples.
    """
    content = {
        "networks": [
            _network_data(network, title)
            for network, title in zip(networks, titles(networks), strict=True)
        ],
        "likeness": _likeness_data(out_of_distribution.of_digits()),
        "samples": [_sample_data(sample) for sample in choose_samples(networks[0])],
        "constants": constants(),
    }
    parts = {
        name: (PARTS / f"{name}.js").read_text(encoding="utf-8")
        for name in ("network", "preprocessing", "out_of_distribution", "view")
    }
    frame = Template((PARTS / "page.html").read_text(encoding="utf-8"))
    return frame.substitute(
        style=html.style(PARTS / "style.css"),
        # No name of a run can end the script that it stands in.
        data=json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        units=_spread(len(network.params["head"]["kernel"]) for network in networks),
        weights=_spread(count_params(network.params) for network in networks),
        **parts,
    )


def titles(networks: Sequence[Network]) -> list[str]:
    """By how networks were asked; with the names of their runs if that is no name."""
    losses = [network.loss for network in networks]
    return [
        TITLES[loss] if losses.count(loss) == 1 else f"{TITLES[loss]}: {network.name}"
        for loss, network in zip(losses, networks, strict=True)
    ]


def constants() -> dict[str, Any]:
    """Those of the preparation, by the names that they have in JavaScript."""
    return {
        "side": preprocessing.SIDE,
        "box": preprocessing.BOX,
        "centre": preprocessing.CENTRE,
        "fine": preprocessing.FINE,
        "strokes": preprocessing.STROKES,
        "leastContrast": preprocessing.LEAST_CONTRAST,
    }


def choose_samples(network: Network) -> list[Sample]:
    """Digits of the embedded images, the easy ones before the hard ones.

    Easy are the first few of each digit that the network is sure of, and that look like
    it. Hard are those to whose true digit it gives the least probability: its errors,
    and near to them.
    """
    images, labels = embedded.splits()["test"]
    probabilities = network.predictor.predict_probabilities(images)[
        :, -1
    ]  # [n, classes]
    truth = probabilities[np.arange(len(labels)), labels]
    clear = (truth >= SURE) & out_of_distribution.of_digits().look_like(
        images, probabilities
    )
    of_digits = [
        np.flatnonzero((labels == digit) & clear)[:EASY]
        for digit in range(probabilities.shape[1])
    ]
    easy = [
        places[turn]
        for turn in range(EASY)
        for places in of_digits
        if turn < len(places)
    ]
    hard = [place for place in truth.argsort(kind="stable")[:HARD] if place not in easy]
    return [
        Sample(images[place], int(labels[place]), is_hard)
        for is_hard, places in ((False, easy), (True, hard))
        for place in places
    ]


def _network_data(network: Network, title: str) -> dict[str, Any]:
    kernels, head = Kernels.of(network.params["cell"]), network.params["head"]
    arrays = {
        "row": kernels.row,
        "bias": kernels.bias,
        "hidden": kernels.hidden,
        "head": head["kernel"],
        "headBias": head["bias"],
    }
    return {
        "title": title,
        "loss": network.loss,
        "hidden": len(head["kernel"]),
        "params": {
            name: _base64(np.asarray(array, "<f4")) for name, array in arrays.items()
        },
    }


def _likeness_data(known: out_of_distribution.Likeness) -> dict[str, Any]:
    return {
        "blur": out_of_distribution.BLUR,
        "sure": out_of_distribution.SURE,
        "farthest": known.farthest,
        "means": _base64(known.means),
        "axes": _base64(known.axes),
        "scales": _base64(known.scales.astype("<f4")),
    }


def _sample_data(sample: Sample) -> dict[str, Any]:
    pixels = _base64(sample.pixels)
    return {"label": sample.label, "pixels": pixels, "hard": sample.hard}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _spread(counts: Any) -> str:
    """Numbers as words have them: `128`, or `64 or 128`."""
    return " or ".join(f"{count:,}" for count in sorted(set(counts)))
