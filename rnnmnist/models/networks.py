"""Custom networks, which replace the recurrent layers and the head."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import DenyList

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.runtime.random_streams import make_key

# The Flax collection of penalties, which are added to the training objective.
LOSSES = "losses"


class CustomNetwork(nn.Module):
    """Classifies sequences with a custom module, `config.network`.

    The fields and the arguments of `__call__` are the same as for `SequenceClassifier`.
    Streams are not supported.
    """

    config: RunModelConfig
    input_shape: tuple[int, int]
    num_classes: int
    execution: Execution

    def setup(self) -> None:
        """Creates the custom module, with parameters in `params["network"]`."""
        make_module: Any = self.config.network
        self.network = make_module(classes=self.num_classes)

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Computes logits, float32 [batch, classes].

        The arguments are the same as for `SequenceClassifier`, but `every_step` must be
        False. If `keys` is not None, the custom module is called with
        `train=True`. The module always receives an array of lengths.
        """
        if lengths is None:
            batch_size, time_steps, _ = inputs.shape  # may be symbolic
            lengths = jnp.full(batch_size, time_steps, jnp.int32)
        make_module: Any = self.config.network
        precision = jax.default_matmul_precision(self.execution.precision)
        # Errors can depend on the number of time steps.
        with make_module.wrap_errors(), precision:
            logits = self.network(inputs, lengths, train=keys is not None)
        return jnp.asarray(logits, jnp.float32)


def check_network(model: CustomNetwork) -> None:
    """Validates a custom network with abstract arrays (`jax.eval_shape`).

    The network is traced for prediction and for training.

    Raises:
        UserError: if the network raises an error, returns logits of the wrong shape,
            has no parameters, or has unsupported variables.
    """

    def check() -> None:
        key = make_key(0)
        inputs = jnp.zeros((2, *model.input_shape))
        variables = model.init(key, inputs)
        check_collections(variables)
        if "params" not in variables:
            raise ValueError("it has no parameters")
        params = {"params": variables["params"]}
        check_shape("its logits", model.apply(params, inputs), (2, model.num_classes))
        _, updates = model.apply(
            params,
            inputs[:1],
            keys=key[None],
            rngs={"dropout": key},
            mutable=DenyList(("params", "intermediates")),
        )
        check_collections(updates)

    make_module: Any = model.config.network
    with make_module.wrap_errors():
        jax.eval_shape(check)


def check_collections(variables: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a variable is not a float32 parameter or a penalty."""
    unsupported = sorted(variables.keys() - {"params", LOSSES})
    if unsupported:
        raise ValueError(
            f"it has an unsupported collection, {unsupported[0]} (supported: params, "
            f"and {LOSSES} for penalties)"
        )
    for leaf in jax.tree.leaves(variables.get("params")):
        if leaf.dtype != jnp.float32:
            raise ValueError(f"its parameters must be float32, not {leaf.dtype}")


def check_shape(subject: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises a `ValueError` unless `value` is an array of this shape."""
    actual_shape = getattr(value, "shape", type(value).__name__)
    if actual_shape != shape:
        raise ValueError(f"{subject} must have shape {shape}, not {actual_shape}")
