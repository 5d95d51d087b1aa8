"""Initializes, counts and hashes the parameters of networks."""

import functools
import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnmnist.models.cells import DELTAS, FILTERS, layer_names
from rnnmnist.models.classifier import Classifier
from rnnmnist.models.lstm import init_gate_biases
from rnnmnist.runtime.random_streams import make_key

# Nested dictionaries of parameter arrays, with Flax's names.
Params = Mapping[str, Any]
# Names of modules whose parameters are random or statistics of the training data. The
# optimizer neither updates nor decays these parameters.
NOT_TRAINED = (DELTAS, FILTERS)


def init_params(
    model: Classifier, key: jax.Array, delta_std: jax.typing.ArrayLike = 1.0
) -> Params:
    """Initializes the float32 parameters of one network.

    Args:
        model: the network.
        key: a typed JAX key.
        delta_std: standard deviation of the delta features in the training data, float
            [features] or []. Ignored if the setting `model.deltas` is False.
    """
    config = model.config
    params: Params = model.init(key, jnp.zeros((1, *model.input_shape)))["params"]
    if config.deltas:  # `Deltas` initializes `std` to 1
        params = {**params, DELTAS: {"std": params[DELTAS]["std"] * delta_std}}
    if config.cell == "lstm" and config.network is None:
        max_memory = None
        if config.initializer == "chrono":
            time_steps, _ = model.input_shape
            # As in the paper on chrono initialization (`init_gate_biases`): T - 1 for a
            # cell that reads T time steps.
            max_memory = max(1, config.count_windows(time_steps) - 1)
        for index, name in enumerate(itertools.chain(*layer_names(config))):
            # `model.init` folds hashes of names into `key`, so `cell_key` is unique.
            cell_key = jax.random.fold_in(key, index)
            cell = init_gate_biases(
                params[name], cell_key, config.forget_bias, max_memory
            )
            params = {**params, name: cell}
    return params


@functools.cache  # tracing the model takes 10 ms
def abstract_params(model: Classifier) -> Params:
    """Returns the shapes and dtypes of one network's parameters."""
    # The key is abstract, too: if the caller is tracing a program, a concrete key would
    # add operations to that program.
    key = jax.eval_shape(make_key, 0)
    return jax.eval_shape(functools.partial(init_params, model), key)


def count_params(params: Params) -> int:
    """Returns the number of trained parameters."""
    trained_params = [tree for name, tree in params.items() if name not in NOT_TRAINED]
    return sum(leaf.size for leaf in jax.tree.leaves(trained_params))


def params_sha256(params: Params) -> str:
    """Returns the SHA-256 of the bytes of all arrays, in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(params)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
