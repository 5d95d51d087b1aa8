"""What training minimises."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rnnmnist.config.schema import TrainConfig
from rnnmnist.models.classifier import Params, SequenceClassifier


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cross-entropy of a network's answers, a function of parameters and batch."""

    model: SequenceClassifier
    every_row: bool  # whether it is asked after every row, or after the last alone
    label_smoothing: float  # share of a label that all classes get in equal parts

    @classmethod
    def of(cls, config: TrainConfig, model: SequenceClassifier) -> "Objective":
        """That of a configuration."""
        return cls(model, config.loss == "every_row", config.label_smoothing)

    def __call__(
        self, params: Params, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The summed loss of a batch, in nats, and how many answers are right.

        Args:
            params: of one network.
            images: [batch, rows, columns], as the model takes them.
            labels: int32 [batch].

        Returns:
            float32 [], over the batch; after every row, of each image's weighted mean
            over rows. And int32 [], right after the last row.

        References:
            Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception
            Architecture for Computer Vision", CVPR 2016, on smoothed labels.
        """
        logits = jnp.asarray(
            self.model.apply({"params": params}, images, every_row=self.every_row)
        )
        answers = logits[:, -1] if self.every_row else logits  # [batch, classes]
        losses = self._cross_entropy(logits, labels)
        if self.every_row:
            losses = losses @ row_weights(logits.shape[1])
        return losses.sum(), jnp.sum(answers.argmax(-1) == labels)

    def _cross_entropy(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Float32 [batch], or [batch, rows]."""
        labels = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(labels, self.label_smoothing)
        if self.every_row:
            targets = targets[:, None]
        return optax.softmax_cross_entropy(logits, targets)


def row_weights(rows: int) -> jax.Array:
    """What the loss after each row counts for, float32 [rows]; together 1.

    They rise with the square of the row: after the first ones nobody can know.
    """
    squares = jnp.arange(1, rows + 1, dtype=jnp.float32) ** 2
    return squares / squares.sum()
