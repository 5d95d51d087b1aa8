"""The recurrences by the names of `model.cell`."""

import functools
import hashlib
import math
import pkgutil
import sys
import types
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.config.platforms import LINEAR_REMAT_STEPS, Execution
from rnnmnist.config.schema import CELLS, ModelConfig
from rnnmnist.errors import UserError
from rnnmnist.models.linear import ResidualLayers
from rnnmnist.models.lstm import LSTM, LSTMCell
from rnnmnist.models.recurrences import ScannedCell
from rnnmnist.models.wrappers import Bidirectional, MeanPooling, Windows

GATE_COUNTS = {"lstm": 4, "gru": 3, "rnn": 1}  # with the candidate
BACKWARD = "backward_"  # begins the names of a backward recurrence's parameters


def load_cell(cell: str, sha256: str | None) -> type[Any]:
    """Runs the file of `FILE.py:CLASS`, once for each hash, and returns the class.

    The file must have the given hash. None accepts every content and always runs it.
    """
    path, _, name = cell.rpartition(":")
    module = sys.modules.get(f"rnnmnist_cell_{sha256}")
    if module is None:
        source = Path(path).read_bytes() if Path(path).exists() else b""
        actual = hashlib.sha256(source).hexdigest()
        if sha256 not in (None, actual):
            raise UserError(
                f"model.cell: the checkpoint's cell is missing: {path} with SHA-256 "
                f"{sha256}; restore it, or give its new path as model.cell"
            )
        # Flax looks up the module of a class by its name.
        module = types.ModuleType(f"rnnmnist_cell_{actual}")
        module.__file__ = path
        sys.modules[module.__name__] = module
        try:
            exec(compile(source, path, "exec"), vars(module))
        except (Exception, SystemExit) as error:  # a user's file can raise anything
            del sys.modules[module.__name__]
            raise UserError(
                f"model.cell: {path} does not run: {type(error).__name__}: {error}"
            ) from error
    create = getattr(module, name, None)
    if not isinstance(create, type):
        raise UserError(f"model.cell: {path} must define a class {name}")
    return create


def check_user_cell(config: ModelConfig) -> None:
    """Checks that a user's cell can be created and scanned."""
    if not config.is_user_cell:
        return
    units = config.hidden_size
    create = load_cell(config.cell, config.cell_sha256)
    try:
        scanned = ScannedCell(create(features=units, name="cell"))
        init = functools.partial(scanned.init_with_output, every_step=False)
        hidden, _ = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2, 1)), None)
        if hidden.shape != (2, units):
            raise ValueError(f"its output is {hidden.shape}, not {(2, units)}")
    except Exception as error:  # a user's class can raise anything
        raise UserError(
            f"model.cell: {config.cell} must be a flax.linen.RNNCellBase that can be "
            f"created with features={units} and scanned: {type(error).__name__}: "
            f"{error}"
        ) from error


def make_recurrence(
    config: ModelConfig, features: int, execution: Execution
) -> nn.Module:
    """Creates the recurrence of a configuration, for inputs with some features.

    Parameters are named `cell`, or `layers` if it is linear in its state, and in the
    second direction after `backward_`. The names are part of the checkpoint format.
    """
    recurrence = _make_direction(config, features, execution, "")
    if config.bidirectional:
        backward = _make_direction(config, features, execution, BACKWARD)
        recurrence = Bidirectional(recurrence, backward)
    if config.window_size > 1:
        recurrence = Windows(
            recurrence, size=config.window_size, stride=config.window_stride
        )
    return recurrence


def _make_direction(
    config: ModelConfig, features: int, execution: Execution, prefix: str
) -> nn.Module:
    recurrence: nn.Module
    if config.is_user_cell:
        cell: Any = load_cell(config.cell, config.cell_sha256)
    else:
        cell = pkgutil.resolve_name(CELLS[config.cell])
    if config.is_linear:
        recurrence = ResidualLayers(
            functools.partial(
                cell,
                config.hidden_size,
                unroll=None if execution.parallel_scan else LINEAR_REMAT_STEPS,
            ),
            hidden_size=config.hidden_size,
            num_layers=config.layers,
            block_size=execution.remat_steps,
            precision=execution.precision,
            name=f"{prefix}layers",
        )
    else:
        init: dict[str, Any] = {}
        if config.initializer == "tutorial":
            # TensorFlow 1 drew one matrix for all gates: [inputs + hidden, outputs].
            inputs = features * config.window_size + config.hidden_size
            outputs = GATE_COUNTS[config.cell] * config.hidden_size
            limit = math.sqrt(6 / (inputs + outputs))
            glorot = functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
            init = {"kernel_init": glorot, "recurrent_kernel_init": glorot}
        recurrence = (LSTM if cell is LSTMCell else ScannedCell)(
            cell(features=config.hidden_size, **init, name=f"{prefix}cell"),
            unroll=execution.unroll,
            precision=execution.precision,
        )
    if config.pooling == "mean":
        recurrence = MeanPooling(recurrence, config.hidden_size)
    return recurrence
