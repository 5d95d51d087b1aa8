"""The network that an export contains, and the examples that certify it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples
from rnnmnist.errors import UserError
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.models.classifier import Params
from rnnmnist.runs.checkpoints import read_header, with_step
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runtime.ensemble import split_ensemble


class Source(NamedTuple):
    """A trained network with the examples on which its exports are checked.

    The inputs are what an exported network takes: images, uint8 [n, rows, columns]; or
    sequences before their normalization, float32 [n, time, features], and their
    lengths, int32 [n].
    """

    network: TrainedNetwork
    data_paths: Mapping[str, str | None]  # overrides of those in the configuration
    params: Params  # of the network, with Flax's names, as NumPy arrays
    params_sha256: str  # as in result files
    dataset: str  # the name of the data of the examples
    split: str  # test, or validation if there is no test split
    inputs: tuple[np.ndarray, ...]  # all examples of that split
    labels: np.ndarray  # int32 [n]
    logits: np.ndarray  # of this package for the inputs, float32 [n, classes]

    @classmethod
    def load(
        cls, workdir: Path, selector: str, data_paths: Mapping[str, str | None]
    ) -> "Source":
        """Restores a network, loads its examples and classifies them."""
        header = with_step(workdir, selector, lambda step: read_header(workdir, step))
        if (seeds := header.config.num_seeds) > 1:
            raise UserError(
                f"workdir: {workdir} has num_seeds={seeds}, but an export contains one "
                "network; name a run with num_seeds=1"
            )
        network = TrainedNetwork(workdir, selector)
        (params,) = split_ensemble(jax.device_get(network.params))
        task, split, examples = network.load_split(None, data_paths, "export")
        inputs = to_inputs(examples)
        return cls(
            network=network,
            data_paths=data_paths,
            params=params,
            params_sha256=params_sha256(params),
            dataset=task.name,
            split=split,
            inputs=inputs,
            labels=examples.labels,
            logits=network.logits(network.inputs(*inputs))[0],
        )

    @property
    def task(self) -> Task:
        """What the network was trained to classify."""
        return self.network.task

    @property
    def pixel_order(self) -> np.ndarray | None:
        """The indices of the pixels of each time step, int64 [time, features].

        Indices count pixels in row order. None if the network reads sequences.
        """
        view = self.network.view
        shape = self.task.image_shape
        if view is None or shape is None:
            return None
        indices = np.arange(shape[0] * shape[1]).reshape(1, *shape)
        return np.asarray(view(indices))[0]  # type: ignore[arg-type]

    @property
    def provenance(self) -> dict[str, Any]:
        """What the network is and where it comes from, as JSON."""
        config = self.network.config.replace(dict.fromkeys(DATA_PATHS))
        return {
            "classes": list(self.task.classes),
            "trained_on": self.task.name,
            "step": self.network.checkpoint_step,
            "params_sha256": self.params_sha256,
            "config": msgspec.to_builtins(config),
        }


def to_inputs(examples: Examples) -> tuple[np.ndarray, ...]:
    """Returns the inputs of an exported network for examples: see `Source`."""
    values = examples.stored
    if examples.indices is not None:
        values = values[examples.indices]
    if examples.normalization is None:
        return (values,)
    lengths = examples.lengths
    if lengths is None:
        lengths = np.full(len(values), values.shape[1])
    return values.astype(np.float32), lengths.astype(np.int32)
