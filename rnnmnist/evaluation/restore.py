"""The network that a checkpoint holds; nothing else has to be known of its run."""

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


class Network(NamedTuple):
    """A trained network, or a stack of them."""

    config: Config  # of the run
    model: SequenceClassifier
    params: Params


def restore(workdir: Path, step: int, sharding: Sharding) -> Network:
    """Rebuilds the network of a checkpoint from what the checkpoint carries.

    Args:
        workdir: of the run.
        step: of the checkpoint.
        sharding: of every array.

    Raises:
        RunError: when its arrays have other shapes or types than its configuration.
        DamagedError: when something is not what was saved.
    """
    config = read_config(workdir, step)
    model = make_model(config.model)
    like = abstract_params(model, sharding, config.num_seeds)
    return Network(config, model, read_params(workdir, step, like))
