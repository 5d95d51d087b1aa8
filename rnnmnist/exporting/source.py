"""The network that an export contains, and the examples that certify it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import with_step
from rnnmnist.checkpoints.store import read_config
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, Normalization
from rnnmnist.errors import UserError
from rnnmnist.evaluation.predictions import EvaluationSplit, predict_logits
from rnnmnist.evaluation.restore import RestoredModel, restore_model
from rnnmnist.evaluation.results import load_split, log_test_reading
from rnnmnist.models.classifier import Params
from rnnmnist.runtime.ensemble import split_ensemble
from rnnmnist.runtime.mesh import make_mesh


class Source(NamedTuple):
    """A trained network with the examples on which its exports are checked."""

    workdir: Path
    step: int
    data_paths: Mapping[str, str | None]  # overrides of those in the configuration
    restored: RestoredModel
    split: str  # test, or validation if there is no test split
    examples: Examples  # all of that split
    logits: np.ndarray  # of this package for the examples, float32 [n, classes]

    @classmethod
    def load(
        cls, workdir: Path, selector: str, data_paths: Mapping[str, str | None]
    ) -> "Source":
        """Restores a network and loads its examples.

        Args:
            workdir: of a run.
            selector: `best`, `latest` or the number of a step.
            data_paths: overrides of the data's paths in the configuration.

        Raises:
            UserError: if the run, the step or the data do not exist, or the run has
                several seeds.
            RunError: if the checkpoint is damaged.
        """
        mesh = make_mesh(1, 1, 1)

        def load_step(step: int) -> "Source":
            if (seeds := read_config(workdir, step).num_seeds) > 1:
                raise UserError(
                    f"--workdir: {workdir} has num_seeds={seeds}, but an export "
                    "contains one network; name a run with num_seeds=1"
                )
            restored = restore_model(workdir, step, mesh)
            _, split, examples = load_split(restored, None, data_paths)
            if split == "test":
                sha256 = params_sha256(restored.params)
                log_test_reading(workdir, step, sha256, "export")
            on_devices = EvaluationSplit.device_put(
                examples, restored.view, mesh, restored.execution
            )
            (logits,) = predict_logits(restored.model, restored.params, on_devices)
            return cls(workdir, step, data_paths, restored, split, examples, logits)

        return with_step(workdir, selector, load_step)

    @property
    def task(self) -> Task:
        """What the network classifies."""
        return self.restored.task

    @property
    def params(self) -> Params:
        """The parameters of the network, with Flax's names, as NumPy arrays."""
        (params,) = split_ensemble(self.restored.params)
        return _to_numpy(params)

    @property
    def params_sha256(self) -> str:
        """The SHA-256 of the parameters, as in result files."""
        return params_sha256(self.restored.params)

    @property
    def normalization(self) -> Normalization:
        """How sequences are converted to the inputs of the network."""
        return Normalization.create(self.task, self.restored.config.data.missing)

    @property
    def pixel_order(self) -> np.ndarray | None:
        """The index of the pixel that each step reads, int64 [steps, features].

        Indices count pixels in row order. None if the network reads sequences.
        """
        view, shape = self.restored.view, self.task.image_shape
        if view is None or shape is None:
            return None
        indices = np.arange(shape[0] * shape[1]).reshape(1, *shape)
        return np.asarray(view(indices))[0]  # type: ignore[arg-type]

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """What an exported network takes, of all examples.

        Either images, uint8 [n, rows, columns]; or sequences as they are stored,
        float32 [n, time, features], and their lengths, int32 [n].
        """
        stored, indices = self.examples.stored, self.examples.indices
        values = stored if indices is None else stored[indices]
        if self.task.image_shape is not None:
            return (values,)
        lengths = self.examples.lengths
        if lengths is None:
            lengths = np.full(len(values), values.shape[1])
        return values.astype(np.float32), lengths.astype(np.int32)

    @property
    def correct(self) -> int:
        """The number of examples that are classified correctly."""
        return int((self.logits.argmax(-1) == self.examples.labels).sum())

    @property
    def provenance(self) -> dict[str, Any]:
        """What the network is and where it comes from, as JSON."""
        return {
            "classes": list(self.task.classes),
            "trained_on": self.task.name,
            "step": self.step,
            "params_sha256": self.params_sha256,
            "config": self.restored.config.replace(dict.fromkeys(DATA_PATHS)).to_dict(),
        }

    def predict(self, *inputs: np.ndarray) -> np.ndarray:
        """Returns the logits of `inputs`, or of a part of them, by this package."""
        restored, (values, *lengths) = self.restored, inputs
        examples = dataclasses.replace(
            self.examples,
            stored=values,
            labels=np.zeros(len(values), np.int32),
            lengths=lengths[0] if lengths else None,
            indices=None,
        )
        split = EvaluationSplit.device_put(
            examples, restored.view, make_mesh(1, 1, 1), restored.execution
        )
        return predict_logits(restored.model, restored.params, split)[0]


def _to_numpy(tree: Params) -> Params:
    return {
        name: _to_numpy(value) if isinstance(value, Mapping) else np.asarray(value)
        for name, value in tree.items()
    }
