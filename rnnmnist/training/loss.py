"""The training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rnnmnist.models.classifier import Params, SequenceClassifier


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cross-entropy of a network as a function of parameters and a batch."""

    model: SequenceClassifier
    every_row: bool  # takes the loss after each row, not only after the last
    label_smoothing: float  # probability spread evenly over all classes

    def __call__(
        self, params: Params, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the summed loss and the number of correct predictions.

        Args:
            params: of one network.
            images: [batch, rows, columns], as the model takes them.
            labels: int32 [batch].

        Returns:
            The loss in nats, float32 [], summed over the batch; with `every_row`, each
            image's loss is a weighted mean over rows. The number of images predicted
            correctly after the last row, int32 [].

        References:
            Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception
            Architecture for Computer Vision", CVPR 2016, for label smoothing.
        """
        logits = jnp.asarray(
            self.model.apply({"params": params}, images, every_row=self.every_row)
        )
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(one_hot, self.label_smoothing)
        if self.every_row:
            losses = optax.softmax_cross_entropy(logits, targets[:, None])
            losses = losses @ row_weights(logits.shape[1])
            logits = logits[:, -1]
        else:
            losses = optax.softmax_cross_entropy(logits, targets)
        return losses.sum(), jnp.sum(logits.argmax(-1) == labels)


def row_weights(rows: int) -> jax.Array:
    """Returns the weights of the losses after each row, float32 [rows], of sum 1.

    They grow with the square of the row, since the first rows carry little information.
    """
    squares = jnp.arange(1, rows + 1, dtype=jnp.float32) ** 2
    return squares / squares.sum()
