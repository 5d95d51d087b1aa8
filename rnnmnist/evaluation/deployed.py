"""A trained network as one function, from raw examples to logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rnnmnist.data.examples import Normalization, View
from rnnmnist.evaluation.probabilities import combine_members
from rnnmnist.models.classifier import Params, SequenceClassifier
from rnnmnist.runtime.jax_defaults import double_precision
from rnnmnist.runtime.mesh import map_ensemble


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class DeployedNetwork:
    """A network, or an ensemble, that reads raw examples, as exports do.

    The StableHLO program is this function, and the ONNX model has the same steps.
    `TrainedNetwork` takes the same steps with the same functions, but not in one
    program: it reads sequences in float64 and memory maps in parts, so the host
    normalizes them, and it refuses by name what this function answers with NaN.
    """

    model: SequenceClassifier
    params: Params  # with a leading ensemble axis
    multiplier: float  # of the logits of the ensemble
    view: View  # reads images
    normalization: Normalization  # converts sequences

    def __call__(
        self, examples: jax.Array, lengths: jax.Array | None = None
    ) -> jax.Array:
        """Returns the calibrated logits of the ensemble, float32 [n, classes].

        If the inputs of an example are not finite after missing values are filled, all
        its logits are NaN.

        Args:
            examples: images, uint8 [n, rows, columns]; or sequences, float32 [n, time,
                features], whose missing values are NaN.
            lengths: int32 [n], the time steps of each sequence before its padding; None
                for images.
        """
        if lengths is None:
            inputs = self.view(examples)
        else:
            with double_precision():
                standardized = self.normalization.standardize(examples)
            inputs = self.normalization.fill(standardized, lengths)

        def predict_member(params: Params) -> Any:  # Flax's type of `apply` is wider
            return self.model.apply({"params": params}, inputs, lengths)

        predict_members = map_ensemble(predict_member, vectorize=False)
        members: jax.Array = predict_members(self.params)
        logits = self.multiplier * combine_members(members)
        # Gates would hide an input that is NaN or infinite.
        is_finite = jnp.isfinite(inputs).all((1, 2))
        return jnp.where(is_finite[:, None], logits, jnp.nan)
