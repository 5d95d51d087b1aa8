# Code of part 1
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rnnmnist.data import image_datasets

jax.config.update("jax_default_matmul_precision", "float32")  # also on GPUs and TPUs
splits = image_datasets.embedded_images()
images, labels = map(jnp.asarray, splits["train"])
STEPS = 400
BATCH_SIZE = 100
optimizer = optax.adam(optax.cosine_decay_schedule(7e-3, STEPS))


class Reader(nn.Module):
    units: int = 128
    cell: type = nn.LSTMCell

    @nn.compact
    def __call__(self, images):  # [batch, 28, 28], from 0 to 255
        states = nn.RNN(self.cell(self.units, name="cell"))(images / 255)
        return nn.Dense(10, name="head")(states[:, -1])


def initialize(model, seed=0, forget_bias=1.0):
    params = model.init(jax.random.key(seed), jnp.zeros((1, 28, 28)))["params"]
    if "hi" in params["cell"]:  # an LSTM; part 2 explains this bias
        params["cell"]["hf"]["bias"] += forget_bias
    return params


@functools.partial(jax.jit, static_argnames=("model", "optimizer"))
def update(model, optimizer, state, step, images, labels, seed=0):
    """Returns the next parameters and optimizer state, and the loss of a batch."""
    params, optimizer_state = state
    # The batch depends on seed and step only, so a loop can continue at any step.
    key = jax.random.fold_in(jax.random.key(seed), step)
    batch = jax.random.randint(key, (BATCH_SIZE,), 0, len(labels))

    def loss_fn(params):
        logits = model.apply({"params": params}, images[batch])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
        return losses.mean()

    loss, gradient = jax.value_and_grad(loss_fn)(params)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state)
    return (optax.apply_updates(params, updates), optimizer_state), loss


@functools.partial(jax.jit, static_argnames=("model", "optimizer"))
def train(model, optimizer, params, images, labels, seed=0):
    """Returns the trained parameters and the loss of each step."""

    def body(state, step):
        return update(model, optimizer, state, step, images, labels, seed)

    state = (params, optimizer.init(params))
    (params, _), losses = jax.lax.scan(body, state, jnp.arange(STEPS))
    return params, losses


@functools.partial(jax.jit, static_argnames="model")
def accuracy(model, params, images, labels):
    logits = model.apply({"params": params}, images)
    return jnp.mean(logits.argmax(-1) == labels)


def basic_cell(params, h, row):
    from_row = row @ params["i"]["kernel"] + params["i"]["bias"]
    return jnp.tanh(from_row + h @ params["h"]["kernel"])


def lstm_layers(params, h, row):
    def layer(gate):
        from_row = row @ params["i" + gate]["kernel"]
        return from_row + h @ params["h" + gate]["kernel"] + params["h" + gate]["bias"]

    i, f, o = (jax.nn.sigmoid(layer(gate)) for gate in "ifo")
    return i, f, o, jnp.tanh(layer("g"))


def lstm_cell(params, carry, row):
    c, h = carry  # Flax's order: the cell state comes first
    i, f, o, g = lstm_layers(params, h, row)
    c = f * c + i * g
    return c, o * jnp.tanh(c)


def scan_cell(cell, params, start, rows):
    """Returns the state after each row."""

    def body(carry, row):
        carry = cell(params, carry, row)
        return carry, carry

    return jax.lax.scan(body, start, rows)[1]
