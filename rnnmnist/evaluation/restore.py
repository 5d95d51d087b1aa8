"""Restores a trained model from a checkpoint alone."""

from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from rnnmnist.checkpoints.store import read_config, read_params
from rnnmnist.config.platforms import Execution, execution_of
from rnnmnist.config.schema import Config
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    make_model,
)
from rnnmnist.runtime.ensemble import abstract_ensemble, put_ensemble
from rnnmnist.runtime.mesh import platform_of, replicated


class RestoredModel(NamedTuple):
    """The trained networks of a run."""

    config: Config
    execution: Execution  # on the mesh for which they were restored
    model: SequenceClassifier
    params: Params  # with the ensemble axis, replicated over the mesh


def restore_model(workdir: Path, step: int, mesh: Mesh) -> RestoredModel:
    """Restores the model that a checkpoint's own configuration describes.

    Raises:
        RunError: if an array's shape or type does not match the configuration.
        DamagedError: if the checkpoint differs from what was saved.
    """
    config = read_config(workdir, step)
    execution = execution_of(config, platform_of(mesh))
    model = make_model(config.model, execution)
    like = abstract_ensemble(abstract_params(model), config.num_seeds)
    saved = read_params(workdir, step, like)
    params = put_ensemble(saved, config.num_seeds, replicated(mesh))
    return RestoredModel(config, execution, model, params)
