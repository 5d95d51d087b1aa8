"""Restores a trained model from a checkpoint alone."""

from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from rnnmnist.config.platforms import Execution, execution_of
from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Inputs, Normalization
from rnnmnist.data.views import View
from rnnmnist.evaluation.predictions import EvaluationSplit
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    make_model,
)
from rnnmnist.runs.checkpoints import read_header, read_params
from rnnmnist.runtime.ensemble import abstract_ensemble, put_ensemble
from rnnmnist.runtime.mesh import platform_of, replicated


class RestoredModel(NamedTuple):
    """The trained networks of a run."""

    config: Config
    task: Task
    execution: Execution  # on the mesh
    mesh: Mesh  # for which they were restored
    model: SequenceClassifier
    params: Params  # with the ensemble axis, replicated over the mesh

    @property
    def view(self) -> View | None:
        """How the network reads images; None if it reads sequences."""
        return View.of(self.config.data, self.task)

    @property
    def normalization(self) -> Normalization:
        """How sequences are converted to inputs."""
        return Normalization.create(self.task, self.config.data.missing)

    def put(self, inputs: Inputs) -> EvaluationSplit:
        """Copies inputs to the devices of the mesh."""
        return EvaluationSplit.device_put(inputs, self.view, self.mesh, self.execution)


def restore_model(workdir: Path, step: int, mesh: Mesh) -> RestoredModel:
    """Restores the model that a checkpoint's own configuration and task describe.

    Raises:
        DamagedError: if the checkpoint differs from what was saved.
    """
    header = read_header(workdir, step)
    config = header.config
    task = header.task
    execution = execution_of(config, platform_of(mesh))
    if not config.model.is_linear:  # training's blocks do not divide other lengths
        execution = execution._replace(remat_steps=None)
    model = make_model(config.model, task, execution)
    like = abstract_ensemble(abstract_params(model), config.num_seeds)
    saved = read_params(workdir, step, like)
    params = put_ensemble(saved, config.num_seeds, replicated(mesh))
    return RestoredModel(config, task, execution, mesh, model, params)
