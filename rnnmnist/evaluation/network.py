"""A network with its parameters, as functions: logits, probabilities and streams."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from rnnmnist.data.examples import Inputs, Normalization, View
from rnnmnist.evaluation.predictions import nonfinite_logits_error, predict_logits
from rnnmnist.evaluation.probabilities import combine_members, softmax
from rnnmnist.models.classifier import SequenceClassifier
from rnnmnist.models.parameters import Params
from rnnmnist.models.recurrences import Carry
from rnnmnist.runtime.jax_defaults import jax_defaults
from rnnmnist.runtime.mesh import replicated_sharding


class StreamState(NamedTuple):
    """The state of a network after some time steps of a sequence.

    Attributes:
        carry: the carry of the recurrence, with a leading ensemble axis.
        last: the inputs of the previous time step, float32 [features]. With
            `data.missing=forward_fill`, they replace missing values of the next time
            step. They are 0 before the first time step.
    """

    carry: Carry
    last: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Network:
    """A network, or an ensemble, on the devices of a mesh."""

    model: SequenceClassifier
    params: Params  # with a leading ensemble axis, replicated over the mesh
    mesh: Mesh
    view: View  # reads images
    normalization: Normalization  # converts sequences
    multiplier: float  # of the logits, whose softmax are then the probabilities

    def logits(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the logits of each network, float32 [ensemble, examples, classes].

        With `every_step`, they are [ensemble, examples, time, classes]. They are not
        calibrated.
        """
        return predict_logits(
            self.model, self.params, inputs, self.view, self.mesh, every_step=every_step
        )

    def probabilities(self, inputs: Inputs, *, every_step: bool = False) -> np.ndarray:
        """Returns the probabilities of the classes, float32 [examples, classes].

        With `every_step`, they are [examples, time, classes]. They are calibrated.
        """
        logits = self.logits(inputs, every_step=every_step)
        return softmax(self.multiplier * combine_members(logits))

    def calibrated_logits(self, inputs: Inputs) -> np.ndarray:
        """Returns the logits whose softmax are the probabilities.

        They are float64 [examples, classes], and those of an ensemble are of all its
        members together.
        """
        logits = self.logits(inputs).astype(np.float64)
        return self.multiplier * combine_members(logits)

    @jax_defaults()
    def start(self) -> StreamState:
        """Returns the state before the first time step of a sequence, for `step`."""
        # Flax does not declare what `apply` returns.
        start: Any = functools.partial(self.model.apply, method="start")
        starts = jax.vmap(start, in_axes=(0, None))({"params": self.params}, 1)
        # With the sharding that `_step` returns, so that one program serves all steps.
        carry = jax.device_put(starts, replicated_sharding(self.mesh))
        return StreamState(carry, np.zeros(self.model.input_shape[1], np.float32))

    @jax_defaults()
    def step(
        self, state: StreamState, values: np.ndarray
    ) -> tuple[StreamState, NDArray[np.float32]]:
        """Reads one time step, float64 [features], before its normalization.

        Returns the new state, and the probabilities of the classes, float32 [classes].

        Raises:
            RunError: if the logits are not finite.
        """
        standardized = self.normalization.standardize(values[None, None])[0, 0]
        # Forward fill takes a missing value from the previous time step.
        two_time_steps = np.stack([state.last, standardized])
        inputs = self.normalization.fill(two_time_steps[None], None)[0, 1]
        carry, logits = _step(self.params, state.carry, inputs[None], model=self.model)
        logits = jax.device_get(logits)
        if not np.isfinite(logits).all():
            raise nonfinite_logits_error("the sequence up to this time step")
        (probabilities,) = softmax(self.multiplier * combine_members(logits))
        return StreamState(carry, inputs), probabilities


@functools.partial(jax.jit, static_argnames="model")
def _step(
    params: Params,
    carry: Carry,
    inputs: jax.Array,
    *,
    model: SequenceClassifier,
) -> tuple[Carry, jax.Array]:
    """Returns the carry and the logits of each network after one more time step."""
    # Flax does not declare what `apply` returns.
    step: Any = functools.partial(model.apply, method="step")
    return jax.vmap(step, in_axes=(0, 0, None))({"params": params}, carry, inputs)
