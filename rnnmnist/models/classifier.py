"""The network: a recurrent cell scanned over the rows of an image."""

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
Initializer = Callable[..., jax.Array]

# Each cell with the number of its gates, candidates included.
CELLS: dict[str, tuple[Callable[..., nn.RNNCellBase], int]] = {
    "lstm": (nn.OptimizedLSTMCell, 4),
    "gru": (nn.GRUCell, 3),
    "rnn": (nn.SimpleCell, 1),
}


class SequenceClassifier(nn.Module):
    """Reads an image row by row and classifies it by what it then remembers.

    Attributes:
        make_cell: makes the recurrent cell from its `name`. The names are part
            of the checkpoint's format.
        make_head: makes the dense layer from hidden state to logits likewise.
        fused: whether an LSTM's recurrence is `recurrence.py`'s rather than its
            cell's under `nn.scan`: the same function of the same parameters.
        remat_rows: rows to a block, of which the backward pass keeps the first carry
            alone and computes the rest again; None keeps everything.
    """

    make_cell: Callable[..., Any]
    make_head: Callable[..., nn.Dense]
    fused: bool = False
    remat_rows: int | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, every_row: bool = False) -> jax.Array:
        """Reads each image row by row, top to bottom, and classifies it.

        Args:
            images: uint8 or float array, [batch, rows, columns]. Rows are time
                steps, columns are features; uint8 pixels are scaled to [0, 1].
            every_row: whether the network is asked after each row, not only after
                the last one.

        Returns:
            Unnormalised log-probabilities, float32 [batch, classes], read from
            the hidden state after the last row; with `every_row`, [batch, rows,
            classes].

        Raises:
            ValueError: if `images` is not of rank 3, for instance because TFDS's
                channel axis was kept; or their rows are not whole blocks.

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
                raise ValueError(f"{len(rows)} rows are not blocks of {block} rows")
            rows = rows.reshape(-1, block, *rows.shape[1:])
        if self.fused and not self.is_initializing():
            kernels = Kernels.of(self.variables["params"]["cell"])
            carry, after_rows = read_fused(kernels, carry, rows, every_row)
        else:
            carry, after_rows = scan_cell(cell, carry, rows, every_row)
        if every_row:
            return head(after_rows.swapaxes(0, 1))  # of [batch, rows, hidden]
        # An LSTM's carry is (c, h), cell state first; the others carry h alone.
        hidden = carry[1] if isinstance(carry, tuple) else carry  # [batch, hidden]
        return head(hidden)


def scan_cell(cell: Any, carry: Any, rows: jax.Array, every_row: bool) -> Any:
    """Reads rows with a Flax cell.

    Args:
        cell: bound to its module.
        carry: before the first row.
        rows: [rows, batch, columns]; or [blocks, rows, batch, columns], and of a
            block the backward pass keeps the first carry alone.
        every_row: whether hidden states are given after every row.

    Returns:
        The carry after the last row; hidden states [rows, batch, hidden], or None.
    """

    def read(cell: Any, carry: Any, row: jax.Array) -> tuple[Any, Any]:
        carry, hidden = cell(carry, row)
        return carry, hidden if every_row else None

    shared: Any = {"variable_broadcast": "params", "split_rngs": {"params": False}}
    read_rows: Any = nn.scan(read, **shared)
    if rows.ndim > 3:
        read_rows = nn.scan(nn.remat(read_rows, prevent_cse=False), **shared)
    return read_rows(cell, carry, rows)


def read_fused(
    kernels: Kernels, carry: Any, rows: jax.Array, every_row: bool
) -> tuple[Any, Any]:
    """Reads rows as `scan_cell` does, an LSTM's with its own backward pass."""
    c, h = carry
    carry, rows = Carry(c.T, h.T), rows.mT  # [.., columns, batch], which is faster
    if every_row:
        last, kept = read_rows(kernels, carry, rows)
        before = kept.inputs[:, -h.shape[-1] :]  # [rows, hidden, batch]
        return last, jnp.concatenate([before[1:], last.h[None]]).mT
    if rows.ndim == 3:
        c, h = last_carry(kernels, carry, rows)
        return (c.T, h.T), None

    def read_block(carry: Carry, block: jax.Array) -> tuple[Carry, None]:
        return last_carry(kernels, carry, block), None

    (c, h), _ = jax.lax.scan(jax.checkpoint(read_block, prevent_cse=False), carry, rows)
    return (c.T, h.T), None


@functools.cache  # the same object again, so that jit knows it again
def make_model(config: ModelConfig) -> SequenceClassifier:
    """The network of a configuration, without parameters."""
    features = config.hidden_size
    cell, gates = CELLS[config.cell]
    cell_initializers: dict[str, Any] = {}
    head_initializers: dict[str, Any] = {}
    if config.initializer == "tutorial":
        # TensorFlow 1 drew all gates at once: one [inputs + hidden, gates x hidden].
        limit = math.sqrt(6 / (COLUMNS + features + gates * features))
        glorot = symmetric_uniform(limit)
        cell_initializers = {"kernel_init": glorot, "recurrent_kernel_init": glorot}
        normal = nn.initializers.normal(stddev=1.0)
        head_initializers = {"kernel_init": normal, "bias_init": normal}
    return SequenceClassifier(
        make_cell=functools.partial(cell, features=features, **cell_initializers),
        make_head=functools.partial(nn.Dense, CLASSES, **head_initializers),
        fused=config.recurrence == "fused" and config.cell == "lstm",
        remat_rows=config.remat_rows,
    )


def init_params(
    model: SequenceClassifier, key: jax.Array, forget_bias: float
) -> Params:
    """Draws the parameters.

    Args:
        model: from `make_model`.
        key: for all of them.
        forget_bias: initial value of the LSTM's forget-gate bias, the only one of
            its biases that does not start at zero. Cells without that gate have
            no such parameter and ignore it.

    Returns:
        Nested dictionaries with Flax's names, all float32.

    References:
        Jozefowicz, Zaremba, Sutskever, "An Empirical Exploration of Recurrent
        Network Architectures", ICML 2015, on starting that bias at 1.
    """
    images = jnp.zeros((1, ROWS, COLUMNS), jnp.uint8)
    params = model.init(key, images)["params"]
    forget_gate = params["cell"].get("hf")
    if forget_gate is not None:
        forget_gate["bias"] = jnp.full_like(forget_gate["bias"], forget_bias)
    return params


def abstract_params(
    model: SequenceClassifier, sharding: jax.sharding.Sharding, num_seeds: int = 1
) -> Params:
    """The parameters' shapes and types, to be restored into that sharding.

    Args:
        model: from `make_model`.
        sharding: of every array.
        num_seeds: networks; several are a stack, with a leading axis of members.
    """
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0), 0.0))
    stack = (num_seeds,) if num_seeds > 1 else ()
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (*stack, *leaf.shape), leaf.dtype, sharding=sharding
        ),
        shapes,
    )


def ensemble_size(params: Params) -> int | None:
    """How many networks a stack holds; None for one network without that axis."""
    bias = params["head"]["bias"]  # [classes], or [members, classes]
    return None if bias.ndim == 1 else int(bias.shape[0])


def split_ensemble(params: Params) -> list[Params]:
    """The networks of a stack, each without the leading axis; or the only one."""
    size = ensemble_size(params)
    if size is None:
        return [params]
    return [jax.tree.map(operator.itemgetter(i), params) for i in range(size)]


def count_params(params: Params) -> int:
    """How many numbers the parameters are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def symmetric_uniform(limit: float) -> Initializer:
    """An initializer that draws from the uniform distribution on [-limit, limit)."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
