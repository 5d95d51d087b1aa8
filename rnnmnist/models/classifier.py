"""The classifier: a recurrence over the rows of an image, and a dense head."""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnmnist.config.schema import ROWS, ModelConfig
from rnnmnist.models.recurrence import Carry, Kernels, last_carry, read_rows

CLASSES = 10
COLUMNS = 28

Params = Mapping[str, Any]

# Each cell with its number of gates, the candidate included.
CELLS: dict[str, tuple[Callable[..., nn.RNNCellBase], int]] = {
    "lstm": (nn.OptimizedLSTMCell, 4),
    "gru": (nn.GRUCell, 3),
    "rnn": (nn.SimpleCell, 1),
}


class SequenceClassifier(nn.Module):
    """Classifies an image by the hidden state after its last row.

    Attributes:
        make_cell: creates the recurrent cell from its `name`. The names are part of
            the checkpoint format.
        make_head: creates the dense layer from hidden state to logits from its `name`.
        fused: runs an LSTM by `recurrence.py` instead of its Flax cell under
            `nn.scan`. Both compute the same function of the same parameters.
        remat_rows: rows per block of which the backward pass keeps only the initial
            carry and recomputes the rest. None keeps all residuals.
    """

    make_cell: Callable[..., nn.RNNCellBase]
    make_head: Callable[..., nn.Dense]
    fused: bool = False
    remat_rows: int | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, every_row: bool = False) -> jax.Array:
        """Computes the logits of images.

        Args:
            images: uint8 or float array [batch, rows, columns]. Rows are time steps
                and columns are features; uint8 pixels are scaled to [0, 1].
            every_row: returns the logits after each row, not only after the last.

        Returns:
            Logits, float32 [batch, classes]; with `every_row`, [batch, rows, classes].

        Raises:
            ValueError: if `images` is not of rank 3, for instance because of a channel
                axis, or `remat_rows` does not divide the number of rows.

        References:
            Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural
            Computation 9(8), 1997.
        """
        if images.ndim != 3:
            raise ValueError(
                f"images must be [batch, rows, columns], not of shape {images.shape}"
            )
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        cell = self.make_cell(name="cell")
        head = self.make_head(name="head")
        carry = cell.initialize_carry(jax.random.key(0), images[:, 0].shape)  # zeros
        rows = images.swapaxes(0, 1)  # [rows, batch, columns]
        block = None if every_row else self.remat_rows
        if block is not None:
            if len(rows) % block:
                raise ValueError(
                    f"the number of rows must be a multiple of remat_rows={block}, "
                    f"not {len(rows)}"
                )
            rows = rows.reshape(-1, block, *rows.shape[1:])
        if self.fused and not self.is_initializing():
            kernels = Kernels.of(self.variables["params"]["cell"])
            carry, hidden = scan_fused(kernels, carry, rows, every_row)
        else:
            carry, hidden = scan_cell(cell, carry, rows, every_row)
        if every_row:
            return head(hidden.swapaxes(0, 1))  # [batch, rows, hidden]
        # An LSTM's carry is (c, h), cell state first; the other cells carry h alone.
        return head(carry[1] if isinstance(carry, tuple) else carry)


def scan_cell(cell: Any, carry: Any, rows: jax.Array, every_row: bool) -> Any:
    """Runs a Flax cell over rows.

    Args:
        cell: bound to its module.
        carry: before the first row.
        rows: [rows, batch, columns]; or [blocks, rows, batch, columns] for
            rematerialization by blocks.
        every_row: returns the hidden state after each row.

    Returns:
        The carry after the last row; the hidden states [rows, batch, hidden], or None.
    """

    def step(cell: Any, carry: Any, row: jax.Array) -> tuple[Any, Any]:
        carry, hidden = cell(carry, row)
        return carry, hidden if every_row else None

    lifting: Any = {"variable_broadcast": "params", "split_rngs": {"params": False}}
    scan: Any = nn.scan(step, **lifting)
    if rows.ndim > 3:
        scan = nn.scan(nn.remat(scan, prevent_cse=False), **lifting)
    return scan(cell, carry, rows)


def scan_fused(
    kernels: Kernels, carry: Any, rows: jax.Array, every_row: bool
) -> tuple[Any, Any]:
    """Runs an LSTM over rows as `scan_cell` does, with its own backward pass."""
    c, h = carry
    carry, rows = Carry(c.T, h.T), rows.mT  # [.., columns, batch], which is faster
    if every_row:
        last, residuals = read_rows(kernels, carry, rows)
        before = residuals.inputs[:, -h.shape[-1] :]  # [rows, hidden, batch]
        return last, jnp.concatenate([before[1:], last.h[None]]).mT
    if rows.ndim == 3:
        c, h = last_carry(kernels, carry, rows)
        return (c.T, h.T), None

    def scan_block(carry: Carry, block: jax.Array) -> tuple[Carry, None]:
        return last_carry(kernels, carry, block), None

    (c, h), _ = jax.lax.scan(jax.checkpoint(scan_block, prevent_cse=False), carry, rows)
    return (c.T, h.T), None


@functools.cache  # jit takes the model as a static argument and compares by identity
def make_model(config: ModelConfig) -> SequenceClassifier:
    """Returns the classifier of a configuration, without parameters."""
    cell, gates = CELLS[config.cell]
    make_cell = functools.partial(cell, features=config.hidden_size)
    make_head = functools.partial(nn.Dense, CLASSES)
    if config.initializer == "tutorial":
        # TensorFlow 1 drew one matrix [inputs + hidden, gates x hidden] for all gates.
        limit = math.sqrt(6 / (COLUMNS + (1 + gates) * config.hidden_size))
        glorot = functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
        make_cell = functools.partial(
            make_cell, kernel_init=glorot, recurrent_kernel_init=glorot
        )
        normal = nn.initializers.normal(stddev=1.0)
        make_head = functools.partial(make_head, kernel_init=normal, bias_init=normal)
    return SequenceClassifier(
        make_cell=make_cell,
        make_head=make_head,
        fused=config.recurrence == "fused" and config.cell == "lstm",
        remat_rows=config.remat_rows,
    )


def init_params(
    model: SequenceClassifier, key: jax.Array, forget_bias: float
) -> Params:
    """Initializes the parameters of one network, float32 under Flax's names.

    `forget_bias` is the initial bias of the LSTM's forget gate. Other cells have no
    such parameter and ignore it.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on a forget bias of 1.
    """
    images = jnp.zeros((1, ROWS, COLUMNS), jnp.uint8)
    # Flax derives initial values from a layer's name. Under its earlier name, the
    # output layer has the initial values from which all results were trained.
    earlier = model.clone(make_head=lambda name: model.make_head(name="readout"))
    params = earlier.init(key, images)["params"]
    params["head"] = params.pop("readout")
    forget_gate = params["cell"].get("hf")
    if forget_gate is not None:
        forget_gate["bias"] = jnp.full_like(forget_gate["bias"], forget_bias)
    return params


def abstract_params(
    model: SequenceClassifier, sharding: jax.sharding.Sharding, num_seeds: int = 1
) -> Params:
    """Returns the shapes and types of the parameters, with one sharding for all.

    With `num_seeds` above 1, every array has a leading ensemble axis.
    """
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0), 0.0))
    ensemble = (num_seeds,) if num_seeds > 1 else ()
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (*ensemble, *leaf.shape), leaf.dtype, sharding=sharding
        ),
        shapes,
    )


def ensemble_size(params: Params) -> int | None:
    """Returns the length of the ensemble axis; None for one network without it."""
    bias = params["head"]["bias"]  # [classes], or [seeds, classes]
    return None if bias.ndim == 1 else int(bias.shape[0])


def split_ensemble(params: Params) -> list[Params]:
    """Returns the parameters of each network, without the ensemble axis."""
    size = ensemble_size(params)
    if size is None:
        return [params]
    return [jax.tree.map(operator.itemgetter(i), params) for i in range(size)]


def count_params(params: Params) -> int:
    """Returns the number of parameters, over all networks of an ensemble."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
