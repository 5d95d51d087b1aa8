"""A plain JAX training loop: an LSTM reads MNIST row by row.

    python examples/plain_loop.py

For each batch, the host selects the images and calls a compiled training step. The data
set is the 5,000 MNIST images in the package, of which 4,000 are for training.

Measured with seed 0 on two AMD EPYC cores with AVX-512 and JAX 0.12 on 2026-11-30:
9 s, test accuracy 95.6 % (478 of 500).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from rnnmnist.data import image_datasets

Params = Any  # a tree of arrays
EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATE = 5e-3


class RowClassifier(nn.Module):
    """An LSTM over the rows of an image, with a dense head on its last output."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, 10] for uint8 images [batch, rows, columns]."""
        rows = images / 255  # [batch, time, features]: a row is a time step
        rnn = nn.RNN(nn.OptimizedLSTMCell(128))
        # Annotated with `Any`, because `nn.RNN` can also return (carry, outputs).
        hidden: Any = rnn(rows)  # [batch, time, 128]
        return nn.Dense(10)(hidden[:, -1])


def create_state(
    seed: int, images: np.ndarray, optimizer: optax.GradientTransformation
) -> TrainState:
    """Initializes the parameters and the optimizer state."""
    model = RowClassifier()
    params = model.init(jax.random.key(seed), images[:1])["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


@functools.partial(jax.jit, donate_argnums=0)  # reuses the memory of the old state
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
    """Updates the parameters on one batch."""

    def mean_loss(params: Params) -> jax.Array:
        logits = state.apply_fn({"params": params}, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    return state.apply_gradients(grads=jax.grad(mean_loss)(state.params))


@jax.jit
def eval_step(state: TrainState, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Counts the correct predictions in one batch."""
    logits = state.apply_fn({"params": state.params}, images)
    return (jnp.argmax(logits, -1) == labels).sum()


def shuffled_batches(
    generator: np.random.Generator, num_examples: int, batch_size: int
) -> np.ndarray:
    """Returns shuffled indices for full batches, int64 [num_batches, batch_size]."""
    order = generator.permutation(num_examples)
    num_batches = num_examples // batch_size
    return order[: num_batches * batch_size].reshape(num_batches, batch_size)


def train_epoch(
    state: TrainState,
    images: np.ndarray,
    labels: np.ndarray,
    generator: np.random.Generator,
) -> TrainState:
    """Updates the parameters on each batch of one epoch."""
    for indices in shuffled_batches(generator, len(labels), BATCH_SIZE):
        state = train_step(state, images[indices], labels[indices])
    return state


def count_correct(
    state: TrainState, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> int:
    """Counts the correct predictions in a split, including a partial last batch."""
    counts = [
        eval_step(state, images[i : i + batch_size], labels[i : i + batch_size])
        for i in range(0, len(labels), batch_size)
    ]
    return sum(map(int, counts))


def describe_accuracy(state: TrainState, images: np.ndarray, labels: np.ndarray) -> str:
    """Evaluates a split, and returns the accuracy as text."""
    correct = count_correct(state, images, labels, batch_size=500)
    return f"accuracy {correct / len(labels):.1%} ({correct} of {len(labels)})"


def main() -> None:
    """Trains and validates for `EPOCHS` epochs, then evaluates the test split once."""
    splits = image_datasets.embedded_images()
    images, labels = splits["train"]
    state = create_state(0, images, optax.adam(LEARNING_RATE))
    generator = np.random.default_rng(0)
    for epoch in range(1, EPOCHS + 1):
        state = train_epoch(state, images, labels, generator)
        validation = describe_accuracy(state, *splits["validation"])
        print(f"epoch {epoch:2}  validation {validation}")
    print(f"test {describe_accuracy(state, *splits['test'])}")


if __name__ == "__main__":
    main()
