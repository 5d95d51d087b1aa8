"""Builds the recurrent layers that `model.cell` selects."""

import functools
import math
import pkgutil
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.config.functions import Function
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.schema import RNN_CELLS
from rnnmnist.models.filters import FilterBank
from rnnmnist.models.linear import ResidualLayers
from rnnmnist.models.lstm import LSTM, LSTMCell
from rnnmnist.models.networks import check_collections, check_shape
from rnnmnist.models.recurrent_layer import RecurrentLayer, ScannedCell
from rnnmnist.models.wrappers import (
    Bidirectional,
    Deltas,
    MeanPooling,
    Stack,
    Windows,
)
from rnnmnist.runtime.random_streams import make_key

# Names in parameter trees: random filters, delta features, and the prefix of the layers
# that read sequences backward.
FILTERS = "filters"
DELTAS = "deltas"
BACKWARD = "backward_"


def check_cell(cell: Function, hidden_size: int) -> None:
    """Validates a custom cell with abstract arrays (`jax.eval_shape`).

    Raises:
        UserError: if the cell raises an error, returns an output of the wrong shape, or
            has unsupported variables.
    """
    batch_size = 2

    def check() -> None:
        inputs = jnp.zeros((1, batch_size, 1))
        layer = ScannedCell(cell(features=hidden_size, name="cell"))
        variables = layer.init(make_key(0), inputs, None, every_step=False)
        # `init` succeeds even if the cell needs random streams or updates state. For
        # such cells, `apply` fails: it passes only parameters, as in training.
        params = {"params": variables.get("params", {})}
        hidden = layer.apply(params, inputs, None, every_step=False)
        check_shape("its output", hidden, (batch_size, hidden_size))
        # `nn.scan` drops other collections, so initialize the cell without it.
        init = nn.init(_read_first_time_step, cell(features=hidden_size))
        check_collections(init(make_key(0), inputs[0]))

    with cell.wrap_errors():
        jax.eval_shape(check)


def _read_first_time_step(cell: nn.RNNCellBase, inputs: jax.Array) -> Any:
    return cell(cell.initialize_carry(make_key(0), inputs.shape), inputs)


def make_recurrent_layer(
    config: RunModelConfig, input_shape: tuple[int, int], execution: Execution
) -> RecurrentLayer:
    """Builds the recurrent layer of a configuration, including its wrappers.

    `input_shape` is (time steps, features).

    The classifier calls this function in `setup`. Flax therefore makes every module
    with an explicit `name` a direct child of the classifier, even if the module is
    inside a wrapper: the parameters of a cell are always `params["cell"]`. The names
    are part of the checkpoint format:

    - `filters`: random filters;
    - `cell`, `cell_1`, `cell_2`: the cells of stacked layers;
    - `layers`: the residual layers of `model.cell=lru`;
    - `backward_cell`, `backward_layers`: the backward direction;
    - `deltas`: the standard deviation of delta features.
    """
    time_steps, num_features = input_shape
    num_inputs = 2 * num_features if config.deltas else num_features
    layer: RecurrentLayer
    if config.is_closed_form:
        # `resolve` rejects windows for random filters.
        layer = FilterBank(config.hidden_size, num_inputs, time_steps, name=FILTERS)
    else:
        layer = _make_layers(config, num_inputs * config.window, execution)
    if config.window > 1:
        layer = Windows(layer, size=config.window, stride=config.stride)
    if config.deltas:
        layer = Deltas(layer, num_features, name=DELTAS)
    return layer


def layer_names(config: RunModelConfig) -> list[list[str]]:
    """Returns the parameter names of each layer, one name for each direction.

    For `model.cell=lru`, there is one layer, because `ResidualLayers` is a whole stack.
    """
    if config.is_linear:
        names = ["layers"]
    else:
        names = ["cell", *(f"cell_{index}" for index in range(1, config.num_layers))]
    prefixes = ["", BACKWARD] if config.bidirectional else [""]
    return [[prefix + name for prefix in prefixes] for name in names]


def _make_layers(
    config: RunModelConfig, num_features: int, execution: Execution
) -> RecurrentLayer:
    layers: list[list[Any]] = []  # [layer][direction]
    for names in layer_names(config):
        layers.append(
            [_make_direction(config, num_features, execution, name) for name in names]
        )
        num_features = config.hidden_size * len(names)  # inputs of the next layer
    if config.pooling == "mean":
        layers[-1] = [MeanPooling(layer, config.hidden_size) for layer in layers[-1]]
    return Stack(
        [
            Bidirectional(*directions) if config.bidirectional else directions[0]
            for directions in layers
        ],
        config.hidden_size,
    )


def _make_direction(
    config: RunModelConfig, num_features: int, execution: Execution, name: str
) -> RecurrentLayer:
    if config.is_linear:
        return ResidualLayers(
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            parallel=execution.parallel_scan,
            remat_time_steps=execution.remat_time_steps,
            precision=execution.precision,
            name=name,
        )
    init: dict[str, nn.initializers.Initializer] = {}
    if config.initializer == "tutorial":
        # TensorFlow 1 used one matrix for all gates, [inputs + hidden, 4 x hidden].
        fan_in = num_features + config.hidden_size
        fan_out = 4 * config.hidden_size
        limit = math.sqrt(6 / (fan_in + fan_out))
        glorot = functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
        init = {"kernel_init": glorot, "recurrent_kernel_init": glorot}
    cell: Any = config.cell
    if not isinstance(cell, Function):
        cell = pkgutil.resolve_name(RNN_CELLS[cell])
    layer_class = LSTM if cell is LSTMCell else ScannedCell
    return layer_class(
        cell(features=config.hidden_size, **init, name=name),
        unroll=execution.unroll,
        precision=execution.precision,
    )
