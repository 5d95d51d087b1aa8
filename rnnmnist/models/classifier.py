"""The classifier: a recurrent layer and a dense head."""

import flax.linen as nn
import jax

from rnnmnist.config.functions import Function
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.tasks import Task
from rnnmnist.models.cells import check_cell, make_recurrent_layer
from rnnmnist.models.networks import CustomNetwork, check_network
from rnnmnist.models.recurrent_layer import Carry, Dropout, RecurrentLayer


class SequenceClassifier(nn.Module):
    """Classifies sequences with a recurrent layer and a dense head.

    `recurrent_layer` contains all stacked layers and their wrappers
    (`make_recurrent_layer`). The head reads the final output of `recurrent_layer`,
    [batch, size]: the final hidden state or, with `model.pooling=mean`, the mean of all
    hidden states. The size is:

    - `hidden_size` by default;
    - `2 * hidden_size` for bidirectional layers;
    - `5 * hidden_size` for random filters.

    Models with equal fields are equal and have equal hashes, so a model can be a static
    argument of a jitted function.

    Attributes:
        config: the `model` settings.
        input_shape: (time steps, features) of the inputs that initialize the
            parameters. The network accepts any number of time steps.
        num_classes: the number of classes.
        execution: how the network is compiled for a platform.
    """

    config: RunModelConfig
    input_shape: tuple[int, int]
    num_classes: int
    execution: Execution

    def setup(self) -> None:
        """Creates the recurrent layer and the head.

        Inside the recurrent layer, modules with an explicit name
        (`make_recurrent_layer`) are direct children of the classifier: their parameters
        are in `params`, not in `params["recurrent_layer"]`.
        """
        self.recurrent_layer: RecurrentLayer = make_recurrent_layer(
            self.config, self.input_shape, self.execution
        )
        kernel_init = nn.initializers.lecun_normal()  # the default of `nn.Dense`
        bias_init = nn.initializers.zeros_init()
        if self.config.initializer == "tutorial":  # as in the 2016 TensorFlow tutorial
            kernel_init = nn.initializers.normal(stddev=1.0)
            bias_init = nn.initializers.normal(stddev=1.0)
        self.head = nn.Dense(
            self.num_classes,
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
            inputs: float [batch, time, features]. The caller sets padding to 0.
            lengths: int32 [batch], at least 1: the number of time steps in each
                sequence, excluding padding. None means no padding.
            every_step: whether to return the logits after every time step.
            keys: dropout keys for training, one per example, [batch]. None disables
                dropout.

        Returns:
            The logits after the last time step of each sequence, float32 [batch,
            classes]. If `every_step` is True, the logits after every time step, float32
            [batch, time, classes]; logits in the padding are meaningless.
        """
        logits = self.head(
            self.compute_hidden(inputs, lengths, every_step=every_step, keys=keys)
        )
        if every_step:  # time-major to batch-major
            logits = logits.swapaxes(0, 1)
        return logits

    def compute_hidden(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None = None,
        *,
        every_step: bool = False,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the inputs of the head: the recurrent layer's outputs, with dropout.

        The arguments are the same as for `__call__`.

        Returns:
            The outputs after the last time step of each sequence, [batch, size]. If
            `every_step` is True, the outputs after every time step, [time, batch,
            size].
        """
        dropout = Dropout(self.config.dropout, keys)
        outputs = self.recurrent_layer(
            inputs.swapaxes(0, 1), lengths, every_step=every_step, dropout=dropout
        )
        return dropout.apply(outputs, "last_layer")

    def initialize_carry(self, batch_size: int) -> Carry:
        """Returns the initial carry for `batch_size` sequences.

        If `model.bidirectional` is True, `initialize_carry` and `read_time_step` raise
        an error, because the backward direction starts at the end of a sequence.
        """
        return self.recurrent_layer.initialize_carry(batch_size, self.input_shape[1])

    def read_time_step(
        self, carry: Carry, inputs: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Reads one time step, and returns the new carry and the logits.

        `inputs` has shape [batch, features]. The logits, [batch, classes], equal the
        logits that `__call__` returns for sequences that end at this time step.

        If `model.window` > 1, these logits can differ from the logits with
        `every_step=True`, which change only when a window is complete (`Windows`).
        """
        carry, hidden = self.recurrent_layer.read_time_step(carry, inputs)
        return carry, self.head(hidden)


# The network of a run: a recurrent layer of this package, or a custom network.
Classifier = SequenceClassifier | CustomNetwork


def make_model(config: RunModelConfig, task: Task, execution: Execution) -> Classifier:
    """Builds the classifier of a configuration, without parameters.

    A custom cell or network must already be imported (`import_functions`).

    Raises:
        UserError: if a custom cell or network is invalid.
    """
    input_shape = (task.time_steps, task.features)
    num_classes = len(task.classes)
    if config.network is not None:
        network = CustomNetwork(config, input_shape, num_classes, execution)
        check_network(network)
        return network
    if isinstance(config.cell, Function):
        check_cell(config.cell, config.hidden_size)
    return SequenceClassifier(config, input_shape, num_classes, execution)
