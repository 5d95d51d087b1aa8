"""The measurement of vanishing gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import vanishing
from support import model_of, random_params, task_of

from rnnmnist.config.schema import ModelConfig

TIME_STEPS = 56


def test_each_sequence_gets_the_gradient_of_its_own_loss() -> None:
    model = model_of(ModelConfig(cell="gru", hidden_size=8), task_of(TIME_STEPS, 3, 4))
    params = random_params(model)
    inputs = np.random.default_rng(0).normal(size=(5, TIME_STEPS, 3)).astype(np.float32)
    labels = np.array([0, 3, 1, 2, 3])
    norms = vanishing.input_gradients(model, params, inputs, labels)
    assert norms.shape == (5, TIME_STEPS)

    def loss(sequence: jax.Array) -> jax.Array:
        logits = jnp.asarray(model.apply({"params": params}, sequence[None]))[0]
        return jax.nn.logsumexp(logits) - logits[labels[1]]

    gradient = jax.jit(jax.grad(loss))(inputs[1])
    expected = np.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(norms[1], expected, rtol=1e-4, atol=1e-7)
