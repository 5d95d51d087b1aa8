"""The network that an export contains, and the examples that certify it."""

import logging
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.evaluation.predictions import log_probabilities
from rnnmnist.models.classifier import Params
from rnnmnist.runtime.mesh import split_ensemble

# Of inputs, and of relative logits; sums of float32 in another order differ less.
MAX_DIFFERENCE = 1e-4
_logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """A trained network, or ensemble, with the examples that check its exports.

    The inputs are what an exported network takes: images, uint8 [n, rows, columns]; or
    sequences before normalization, float32 [n, time, features], and lengths, int32 [n].
    """

    network: TrainedNetwork
    members: tuple[Params, ...]  # NumPy arrays with Flax's names, of each network
    dataset: str  # the name of the data of the examples
    split: str  # `Task.evaluated_split`
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray  # int32 [n]
    logits: np.ndarray  # as `evaluate` computes them, float32 [n, classes], combined

    @classmethod
    def create(cls, network: TrainedNetwork) -> "Source":
        """Loads the examples of a network, and classifies them."""
        task, split, examples = network.load_split(None, "export")
        values = examples.raw(slice(None))
        inputs: tuple[np.ndarray, ...] = (values,)
        if task.image_shape is None:
            lengths = examples.lengths
            if lengths is None:
                lengths = np.full(len(values), values.shape[1])
            inputs = values.astype(np.float32), lengths.astype(np.int32)
            standardized = network.normalization(values, lengths)
            errors = np.abs(standardized - network.normalization(inputs[0], lengths))
            for index in np.flatnonzero(errors.max((0, 1)) > MAX_DIFFERENCE):
                _logger.warning(
                    f"the feature {task.feature_names[index]} loses digits in float32, "
                    "which exports take; subtract a constant from it for the training"
                )
        return cls(
            network,
            members=tuple(split_ensemble(jax.device_get(network.params))),
            dataset=task.name,
            split=split,
            inputs=inputs,
            labels=examples.labels,
            logits=combine(network.logits(examples)),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What the network is and where it comes from, as JSON."""
        network = self.network
        return {
            "classes": list(network.task.classes),
            "features": list(network.task.feature_names),
            "trained_on": network.task.name,
            "step": network.checkpoint_step,
            "params_sha256": network.params_sha256,
            "config": msgspec.to_builtins(
                network.config.replace(dict.fromkeys(DATA_PATHS))
            ),
        }


def combine(logits: np.ndarray) -> np.ndarray:
    """Returns the logits [n, classes] of an export, from those of each network.

    Of an ensemble, they are the logarithms of its members' mean probabilities.
    """
    return logits[0] if len(logits) == 1 else log_probabilities(logits)
