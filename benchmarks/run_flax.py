"""The Flax worker: `nn.RNN`, optax and one jitted call per batch.

The model, the training step and the count of correct predictions are imported from
examples/plain_loop.py. This file adds the tasks of a worker, and recipes.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import worker

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
import plain_loop


class Trainer:
    """The train state, and training images in host memory."""

    def __init__(
        self,
        images: Any,
        labels: Any,
        seed: int = 0,
        recipe: worker.Recipe | None = None,
    ) -> None:
        self.images, self.labels, self.recipe = images, labels, recipe
        self.generator = np.random.default_rng(seed)
        self.state = plain_loop.create_state(seed, images, make_optimizer(recipe))

    def steps(self, count: int, batch: int) -> None:
        """Trains on shuffled batches."""
        done = 0
        while done < count:
            batches = plain_loop.shuffled_batches(
                self.generator, len(self.labels), batch
            )[: count - done]
            for indices in batches:
                images = self.images[indices]
                if self.recipe and self.recipe.max_shift:
                    images = shift(images, self.recipe.max_shift, self.generator)
                self.state = plain_loop.train_step(
                    self.state, images, self.labels[indices]
                )
            done += len(batches)
        jax.block_until_ready(self.state.params)

    def count_correct(self, images: Any, labels: Any, batch: int) -> int:
        """Counts the correct predictions."""
        return plain_loop.count_correct(self.state, images, labels, batch)


def make_optimizer(recipe: worker.Recipe | None) -> optax.GradientTransformation:
    """Returns a recipe's optimizer; by default, Adam with a constant learning rate."""
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
    """Shifts each image by random whole pixels, up to `limit` on each axis."""
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
