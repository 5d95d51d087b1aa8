"""The measurement of vanishing gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vanishing
from support import model_of, random_params, task_of

import results
from rnnmnist.config.schema import ModelConfig

TIME = 56


def test_gradients_equal_finite_differences() -> None:
    """Of the loss of each sequence alone, at some of its time steps."""
    model = model_of(ModelConfig(cell="gru", hidden_size=8), task_of(TIME, 3, 4))
    params = random_params(model)
    inputs = np.random.default_rng(0).normal(size=(5, TIME, 3)).astype(np.float32)
    labels = np.array([0, 3, 1, 2, 3])
    norms = vanishing.input_gradients(model, params, inputs, labels)
    assert norms.shape == (5, TIME)

    @jax.jit
    def loss(inputs: jax.Array) -> jax.Array:
        logits = jnp.asarray(model.apply({"params": params}, inputs[None]))[0]
        return jax.nn.logsumexp(logits) - logits[labels[1]]

    for time in (0, 40, TIME - 1):
        slopes = []
        for feature in range(3):
            change = np.zeros_like(inputs[1])
            change[time, feature] = 1e-2
            rise = loss(inputs[1] + change) - loss(inputs[1] - change)
            slopes.append(float(rise) / 2e-2)
        expected = pytest.approx(np.linalg.norm(slopes), rel=0.02, abs=1e-4)
        assert norms[1, time] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs", "unoptimized_commands")
def test_a_case_is_measured(
    tmp_path: Any, data_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RUNS", tmp_path)
    recipe = f"embedded data.view=pixels data.data_dir={data_dir} train.num_steps=2"
    monkeypatch.setattr(vanishing, "RECIPE", recipe)
    monkeypatch.setattr(vanishing, "CASES", [vanishing.case("rnn", 196)])
    (run,) = vanishing.measure(None)["runs"]
    assert (run["recurrence"], run["steps"]) == ("rnn", 196)
    assert len(run["correct"]) == len(run["validation_correct"]) == 1
    for when in ("before", "after"):
        assert np.array(run[when]).shape == (3, vanishing.PARTS)
        assert run[when][1][-1] == 1
