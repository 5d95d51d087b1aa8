"""The classifier: a recurrence, which contains all recurrent layers, and a head."""

import flax.linen as nn
import jax

from rnnmnist.config.functions import Function
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.tasks import Task
from rnnmnist.models.cells import check_cell, make_recurrent_layer
from rnnmnist.models.dropout import Dropout
from rnnmnist.models.networks import UserNetwork, check_network
from rnnmnist.models.recurrent_layer import Carry, RecurrentLayer


class SequenceClassifier(nn.Module):
    """Classifies sequences by a recurrence and a dense head.

    The recurrence contains all recurrent layers, and the wrappers around them
    (`make_recurrent_layer`). The head reads its final output, [batch, size]: the last
    hidden state or, with `model.pooling=mean`, the mean of the hidden states of all
    time steps. The size is `hidden_size`; with `model.bidirectional`, twice
    `hidden_size`, for the outputs of both directions; for random filters, five times.

    Attributes:
        config: the settings of the network.
        input_shape: the number of time steps and of features for which parameters are
            initialized. Sequences can have another number of time steps.
        classes: the number of classes.
        execution: how the network is compiled for a platform.

    A model is a static argument of compiled programs, so it is equal to, and hashed as,
    a model with equal fields.
    """

    config: RunModelConfig
    input_shape: tuple[int, int]
    classes: int
    execution: Execution

    def setup(self) -> None:
        """Creates the recurrence and the head.

        The named modules that `make_recurrent_layer` creates become children of this
        one: the parameters are `params["cell"]`, without `recurrent_layer` before.
        """
        self.recurrent_layer: RecurrentLayer = make_recurrent_layer(
            self.config, self.input_shape, self.execution
        )
        kernel_init = nn.initializers.lecun_normal()  # as `nn.Dense` by default
        bias_init = nn.initializers.zeros_init()
        if self.config.initializer == "tutorial":  # as the tutorial of 2016
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
            inputs: float [batch, time, features]. The caller sets the padding to 0.
            lengths: int32 [batch], the number of time steps of each sequence before the
                padding, at least 1. None means that there is no padding.
            every_step: whether to return logits after each time step.
            keys: the keys of dropout in training, one for each example, [batch]. None
                means that nothing is dropped.

        Returns:
            The logits after the last time step of each sequence, float32 [batch,
            classes], or with `every_step` [batch, time, classes]. Those in the padding
            have no meaning.
        """
        logits = self.head(
            self.hidden(inputs, lengths, every_step=every_step, keys=keys)
        )
        if every_step:  # the recurrence and the head return the time axis first
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

        Returns the outputs of the recurrence, after dropout if there are keys. They are
        [batch, size], after the last time step of each sequence, or with `every_step`
        [time, batch, size], after each time step.
        """
        dropout = Dropout(self.config.dropout, keys)
        outputs = self.recurrent_layer(
            inputs.swapaxes(0, 1), lengths, every_step=every_step, dropout=dropout
        )
        return dropout.apply(outputs, "last_layer")

    def initialize_carry(self, batch: int) -> Carry:
        """Returns the carry before the first time step of `batch` sequences.

        With `model.bidirectional`, `initialize_carry` and `read_time_step` raise an
        error, since the second direction begins at the end of a sequence.
        """
        return self.recurrent_layer.initialize_carry(batch, self.input_shape[1])

    def read_time_step(
        self, carry: Carry, inputs: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Returns the carry and the logits after one time step.

        Inputs are [batch, features]. The logits, [batch, classes], equal a call on
        sequences that end with this time step. With windows, `every_step` returns other
        logits: between the ends of two windows, it repeats the logits of the last
        window that has ended (`Windows`).
        """
        carry, hidden = self.recurrent_layer.read_time_step(carry, inputs)
        return carry, self.head(hidden)


# The network of a run: layers of the package, or a module of the user.
Classifier = SequenceClassifier | UserNetwork


def make_model(config: RunModelConfig, task: Task, execution: Execution) -> Classifier:
    """Returns the classifier of a configuration, without parameters.

    A user's cell or network is imported before (`import_functions`).

    Raises:
        UserError: if a user's cell or network cannot be used.
    """
    fields = config, (task.time_steps, task.features), len(task.classes), execution
    if config.network is not None:
        network = UserNetwork(*fields)
        check_network(network)
        return network
    if isinstance(config.cell, Function):
        check_cell(config.cell, config.hidden_size)
    return SequenceClassifier(*fields)
