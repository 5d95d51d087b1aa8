"""The network that an export contains, and the examples that certify it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, Inputs
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import predict_logits
from rnnmnist.evaluation.scoring import RestoredModel, load_split, restore_model
from rnnmnist.models.classifier import Params
from rnnmnist.runs.checkpoints import read_header, with_step
from rnnmnist.runs.checksums import params_sha256
from rnnmnist.runs.results import log_test_reading
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.mesh import make_mesh


class Source(NamedTuple):
    """A trained network with the examples on which its exports are checked.

    The inputs are what an exported network takes: images, uint8 [n, rows, columns]; or
    sequences before their normalization, float32 [n, time, features], and their
    lengths, int32 [n].
    """

    workdir: Path
    step: int
    data_paths: Mapping[str, str | None]  # overrides of those in the configuration
    restored: RestoredModel
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

        def load_step(step: int) -> "Source":
            if (seeds := read_header(workdir, step).config.num_seeds) > 1:
                raise UserError(
                    f"workdir: {workdir} has num_seeds={seeds}, but an export "
                    "contains one network; name a run with num_seeds=1"
                )
            restored = restore_model(workdir, step, make_mesh(1, 1, 1))
            (params,) = split_ensemble(jax.device_get(restored.params))
            sha256 = params_sha256(params)
            task, split, examples = load_split(restored, None, data_paths)
            if split == "test":
                log_test_reading(workdir, step, sha256, "export")
            inputs = to_inputs(examples)
            return cls(
                workdir=workdir,
                step=step,
                data_paths=data_paths,
                restored=restored,
                params=params,
                params_sha256=sha256,
                dataset=task.name,
                split=split,
                inputs=inputs,
                labels=examples.labels,
                logits=predict(restored, *inputs),
            )

        return with_step(workdir, selector, load_step)

    @property
    def task(self) -> Task:
        """What the network was trained to classify."""
        return self.restored.task

    @property
    def pixel_order(self) -> np.ndarray | None:
        """The indices of the pixels of each time step, int64 [time, features].

        Indices count pixels in row order. None if the network reads sequences.
        """
        view = self.restored.view
        shape = self.task.image_shape
        if view is None or shape is None:
            return None
        indices = np.arange(shape[0] * shape[1]).reshape(1, *shape)
        return np.asarray(view(indices))[0]  # type: ignore[arg-type]

    @property
    def provenance(self) -> dict[str, Any]:
        """What the network is and where it comes from, as JSON."""
        config = self.restored.config.replace(dict.fromkeys(DATA_PATHS))
        return {
            "classes": list(self.task.classes),
            "trained_on": self.task.name,
            "step": self.step,
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


def predict(
    restored: RestoredModel, values: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Returns this package's logits for inputs as in `Source`: float32 [n, classes]."""
    is_image = restored.view is not None
    inputs = Inputs(
        values, lengths, normalization=None if is_image else restored.normalization
    )
    return predict_logits(restored.model, restored.params, restored.put(inputs))[0]
