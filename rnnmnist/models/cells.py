"""The recurrences by the names of `model.cell`."""

import functools
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.config.platforms import LINEAR_REMAT_STEPS, Execution
from rnnmnist.config.resolving import RunModelConfig
from rnnmnist.config.schema import CELLS, ModelConfig
from rnnmnist.errors import UserError
from rnnmnist.models.linear import ResidualLayers
from rnnmnist.models.lstm import LSTM, LSTMCell
from rnnmnist.models.recurrences import ScannedCell
from rnnmnist.models.user_cells import import_cell
from rnnmnist.models.wrappers import Bidirectional, MeanPooling, Windows
from rnnmnist.runtime.random_streams import make_key

GATE_COUNTS = {"lstm": 4, "gru": 3, "rnn": 1}  # with the candidate
BACKWARD = "backward_"  # begins the names of a backward recurrence's parameters


def resolve_cell(config: ModelConfig) -> Callable[..., Any]:
    """Returns the class of a cell.

    A user's own is imported, so the command or the call must have named it.

    Raises:
        UserError: if a user's cell cannot be imported, created and scanned.
    """
    if not config.is_user_cell:
        known: Callable[..., Any] = pkgutil.resolve_name(CELLS[config.cell])
        return known
    cell = import_cell(config)
    units = config.hidden_size
    try:
        scanned = ScannedCell(cell(features=units, name="cell"))
        init = functools.partial(scanned.init_with_output, every_step=False)
        key = jax.eval_shape(make_key, 0)
        inputs = jax.ShapeDtypeStruct((1, 2, 1), jnp.float32)
        hidden, _ = jax.eval_shape(init, key, inputs, None)
        if hidden.shape != (2, units):
            raise ValueError(f"its output is {hidden.shape}, not {(2, units)}")
    except Exception as error:  # a user's class can raise anything
        raise UserError(
            f"model.cell: {config.cell} must be a flax.linen.RNNCellBase that can be "
            f"created with features={units} and scanned: {type(error).__name__}: "
            f"{error}"
        ) from error
    return cell


def make_recurrence(
    config: RunModelConfig,
    cell: Callable[..., Any],
    features: int,
    execution: Execution,
) -> nn.Module:
    """Creates the recurrence of a configuration, for inputs with some features.

    The class of the cell is that of `resolve_cell`.

    Parameters are named `cell`, or `layers` if it is linear in its state, and in the
    second direction after `backward_`. The names are part of the checkpoint format.
    """
    recurrence = _make_direction(config, cell, features, execution, "")
    if config.bidirectional:
        backward = _make_direction(config, cell, features, execution, BACKWARD)
        recurrence = Bidirectional(recurrence, backward)
    if config.window > 1:
        recurrence = Windows(recurrence, size=config.window, stride=config.stride)
    return recurrence


def _make_direction(
    config: RunModelConfig,
    cell: Callable[..., Any],
    features: int,
    execution: Execution,
    prefix: str,
) -> nn.Module:
    recurrence: nn.Module
    if config.is_linear:
        recurrence = ResidualLayers(
            functools.partial(
                cell,
                config.hidden_size,
                unroll=None if execution.parallel_scan else LINEAR_REMAT_STEPS,
            ),
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            block_size=execution.remat_steps,
            precision=execution.precision,
            skip_padding=execution.skip_padding,
            name=f"{prefix}layers",
        )
    else:
        init: dict[str, Any] = {}
        if config.initializer == "tutorial":
            # TensorFlow 1 drew one matrix for all gates: [inputs + hidden, outputs].
            inputs = features * config.window + config.hidden_size
            outputs = GATE_COUNTS[config.cell] * config.hidden_size
            limit = math.sqrt(6 / (inputs + outputs))
            glorot = functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
            init = {"kernel_init": glorot, "recurrent_kernel_init": glorot}
        recurrence = (LSTM if cell is LSTMCell else ScannedCell)(
            cell(features=config.hidden_size, **init, name=f"{prefix}cell"),
            unroll=execution.unroll,
            precision=execution.precision,
            skip_padding=execution.skip_padding,
        )
    if config.pooling == "mean":
        recurrence = MeanPooling(recurrence, config.hidden_size, execution.skip_padding)
    return recurrence
