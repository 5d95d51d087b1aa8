"""The worker of a plain Flax loop: `nn.RNN`, optax and one jitted call per batch."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import worker
from flax.training.train_state import TrainState


class SequenceClassifier(nn.Module):
    """The same network: a recurrence over the rows, a dense layer after the last."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, 10] of uint8 images [batch, rows, columns]."""
        hidden: Any = nn.RNN(nn.OptimizedLSTMCell(128))(images / 255)
        return nn.Dense(10)(hidden[:, -1])


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
    """Updates the parameters on one batch."""

    def mean_loss(params: Any) -> jax.Array:
        logits = state.apply_fn({"params": params}, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    return state.apply_gradients(grads=jax.grad(mean_loss)(state.params))


@jax.jit
def count_batch(state: TrainState, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Counts the correct predictions of one batch."""
    logits = state.apply_fn({"params": state.params}, images)
    return (jnp.argmax(logits, -1) == labels).sum()


class Trainer:
    """The train state, and training images in the memory of the host."""

    def __init__(
        self,
        images: Any,
        labels: Any,
        seed: int = 0,
        recipe: worker.Recipe | None = None,
    ) -> None:
        self.images, self.labels, self.recipe = images, labels, recipe
        self.generator = np.random.default_rng(seed)
        model = SequenceClassifier()
        self.state = TrainState.create(
            apply_fn=model.apply,
            params=model.init(jax.random.key(seed), images[:1])["params"],
            tx=make_optimizer(recipe),
        )

    def steps(self, count: int, batch: int) -> None:
        """Trains on shuffled batches."""
        done = 0
        while done < count:
            order = self.generator.permutation(len(self.labels))
            whole = min(count - done, len(order) // batch)
            for indices in order[: whole * batch].reshape(whole, batch):
                images = self.images[indices]
                if self.recipe and self.recipe.max_shift:
                    images = shift(images, self.recipe.max_shift, self.generator)
                self.state = train_step(self.state, images, self.labels[indices])
            done += whole
        jax.block_until_ready(self.state.params)

    def count_correct(self, images: Any, labels: Any, batch: int) -> int:
        """Counts the correct predictions."""
        counts = [
            count_batch(self.state, images[i : i + batch], labels[i : i + batch])
            for i in range(0, len(labels), batch)
        ]
        return sum(map(int, counts))


def make_optimizer(recipe: worker.Recipe | None) -> optax.GradientTransformation:
    """Returns Adam with a constant learning rate, or a recipe's optimizer."""
    if recipe is None:
        return optax.adam(1e-3)
    schedule = optax.warmup_cosine_decay_schedule(
        recipe.learning_rate / (recipe.warmup + 1),
        recipe.learning_rate,
        recipe.warmup,
        recipe.num_steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, weight_decay=recipe.weight_decay),
    )


def shift(images: Any, limit: int, generator: np.random.Generator) -> Any:
    """Shifts each image by whole pixels, up to a limit on each axis."""
    count, rows, columns = images.shape
    padded = np.pad(images, ((0, 0), (limit, limit), (limit, limit)))
    down, right = generator.integers(2 * limit + 1, size=(2, count, 1))
    return padded[
        np.arange(count)[:, None, None],
        (down + np.arange(rows))[:, :, None],
        (right + np.arange(columns))[:, None, :],
    ]


if __name__ == "__main__":
    worker.main(worker.peer_tasks(Trainer))
