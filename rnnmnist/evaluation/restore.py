"""Restores a trained model from a checkpoint alone."""

from pathlib import Path
from typing import NamedTuple

from jax.sharding import Sharding

from rnnmnist.checkpoints.store import read_config, read_params
from rnnmnist.config.schema import Config
from rnnmnist.models.classifier import (
    Params,
    SequenceClassifier,
    abstract_params,
    make_model,
)


class RestoredModel(NamedTuple):
    """A trained network or ensemble."""

    config: Config  # of the run
    model: SequenceClassifier
    params: Params


def restore_model(workdir: Path, step: int, sharding: Sharding) -> RestoredModel:
    """Restores the model that a checkpoint's own configuration describes.

    Every array gets the given sharding.

    Raises:
        RunError: if an array's shape or type does not match the configuration.
        DamagedError: if the checkpoint differs from what was saved.
    """
    config = read_config(workdir, step)
    model = make_model(config.model)
    like = abstract_params(model, sharding, config.num_seeds)
    return RestoredModel(config, model, read_params(workdir, step, like))
