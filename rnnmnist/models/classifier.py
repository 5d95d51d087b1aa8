"""The classifier: a recurrent layer, and a dense head that reads its outputs."""

import flax.linen as nn
import jax

from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.tasks import Task
from rnnmnist.models.cells import CellClass, make_recurrence, resolve_cell
from rnnmnist.models.dropout import Dropout
from rnnmnist.models.recurrences import Carry, Recurrence


class SequenceClassifier(nn.Module):
    """Classifies sequences by a recurrent layer and a dense head.

    The head reads the layer's output after the last time step: the hidden state or,
    with `model.pooling=mean`, the mean of all hidden states.

    Attributes:
        config: the settings of the network.
        cell: the class of `config.cell`.
        input_shape: the number of time steps and of features for which parameters are
            initialized. Sequences can have another number of time steps.
        classes: the number of classes.
        execution: how the network is compiled for a platform.
    """

    config: RunModelConfig
    cell: CellClass
    input_shape: tuple[int, int]
    classes: int
    execution: Execution

    def setup(self) -> None:
        """Creates the two layers."""
        self.recurrence: Recurrence = make_recurrence(
            self.config, self.cell, self.input_shape, self.execution
        )
        kernel_init = nn.initializers.lecun_normal()  # Flax's defaults
        bias_init = nn.initializers.zeros_init()
        if self.config.initializer == "tutorial":
            kernel_init = nn.initializers.normal(stddev=1.0)
            bias_init = nn.initializers.normal(stddev=1.0)
        self.head = nn.Dense(
            self.classes,
            precision=self.execution.precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
        )

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Computes logits.

        Args:
            inputs: float [batch, time, features], which are 0 in the padding.
            lengths: int32 [batch], the number of time steps of each sequence before the
                padding, at least 1. None means that there is no padding.
            every_step: whether there are logits after each time step.
            keys: the keys of dropout in training, one for each example, [batch]. None
                means that nothing is dropped.

        Returns:
            The logits after the last time step of each sequence, float32 [batch,
            classes], or with `every_step` [batch, time, classes]. Those in the padding
            have no meaning.
        """
        hidden = self.hidden(inputs, lengths, every_step=every_step, keys=keys)
        logits = self.head(hidden)
        if every_step:  # hidden states are [time, batch, hidden]
            logits = logits.swapaxes(0, 1)
        return logits

    def hidden(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the inputs of the head. The arguments are those of `__call__`.

        Returns the outputs of the recurrent layer after the last time step of each
        sequence, [batch, hidden], or with `every_step` after each time step, [time,
        batch, hidden].
        """
        dropout = Dropout(self.config.dropout, keys)
        outputs = self.recurrence(
            inputs.swapaxes(0, 1), lengths, every_step=every_step, dropout=dropout
        )
        return dropout.apply(outputs, "last_layer")

    def start(self, batch: int) -> Carry:
        """Returns the carry before the first time step of `batch` sequences."""
        _, features = self.input_shape
        return self.recurrence.start(batch, features)

    def step(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """Returns the carry and the logits after one time step.

        Inputs are [batch, features]. The logits, [batch, classes], are those of the
        sequences up to this time step.
        """
        carry, hidden = self.recurrence.step(carry, inputs)
        return carry, self.head(hidden)


def make_model(
    config: RunModelConfig, task: Task, execution: Execution
) -> SequenceClassifier:
    """Returns the classifier of a configuration, without parameters.

    A user's cell is imported here. For safety, the configuration must name a cell that
    the user has named in a command or in Python, never a cell that only a checkpoint
    names.
    """
    shape = (task.time_steps, task.features)
    cell = resolve_cell(config)
    return SequenceClassifier(config, cell, shape, len(task.classes), execution)
