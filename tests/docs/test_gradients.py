"""The gradient with respect to the state after each row, and the recorded file."""

import functools
import json
from collections.abc import Callable
from typing import Any

import gradients
import jax
import numpy as np
import optax
import pytest
from matplotlib.axes import Axes
from support import (
    REPOSITORY,
    inputs_of,
    model_of,
    random_examples,
    random_params,
)

from rnnmnist.config.python_files import load_config
from rnnmnist.config.schema import Config, ModelConfig
from rnnmnist.models.cells import CELLS
from rnnmnist.models.classifier import Params, SequenceClassifier

UNITS = 16
COUNT = 3
IMAGES, LABELS = random_examples(COUNT).stored, random_examples(COUNT).labels


@functools.cache
def build(cell: str) -> tuple[SequenceClassifier, Params]:
    model = model_of(ModelConfig(cell=cell, hidden_size=UNITS))
    return model, random_params(model)


@functools.cache
def measured(cell: str) -> gradients.Perturbations:
    """The gradients of all images at every row."""
    return jax.device_get(gradients.gradients(*build(cell), IMAGES, LABELS))


@pytest.mark.parametrize("cell", CELLS)
def test_zero_nudges_give_the_models_logits(cell: str) -> None:
    model, params = build(cell)
    zeros: Any = np.zeros((28, COUNT, UNITS), np.float32)
    read = jax.jit(functools.partial(gradients.perturbed_logits, model))
    found = read(params, IMAGES, gradients.Perturbations(zeros, zeros))
    expected = jax.jit(model.apply)({"params": params}, inputs_of(IMAGES))
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_equals_that_of_the_remaining_rows(cell: str) -> None:
    _, params = build(cell)
    step = CELLS[cell].create(features=UNITS)
    rows = inputs_of(IMAGES).swapaxes(0, 1)
    variables = {"params": params["cell"]}
    read_row = jax.jit(lambda carry, pixels: step.apply(variables, carry, pixels)[0])

    def read(carry: Any, rows: np.ndarray) -> Any:
        for pixels in rows:
            carry = read_row(carry, pixels)
        return carry

    @jax.jit
    def loss_after(carry: Any) -> jax.Array:
        hidden = carry[1] if isinstance(carry, tuple) else carry
        head = params["head"]
        logits = hidden @ head["kernel"] + head["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).sum()

    found = measured(cell)
    start = step.initialize_carry(jax.random.key(0), (COUNT, 28))
    for row in (1, 17, 28):
        carry = jax.device_get(read(start, rows[:row]))
        slope = jax.grad(lambda carry, row=row: loss_after(read(carry, rows[row:])))
        expected = jax.device_get(slope(carry))
        if cell == "lstm":
            (c, h), (by_c, expected) = carry, expected
            # A change of c also changes this row's h: h = o tanh(c).
            tanh_c = np.tanh(c)
            by_c = by_c + expected * h / tanh_c * (1 - tanh_c**2)
            np.testing.assert_allclose(found.c[row - 1], by_c, rtol=1e-3, atol=1e-7)
        else:
            assert not found.c.any()
        np.testing.assert_allclose(found.h[row - 1], expected, rtol=1e-3, atol=1e-7)


def lstm_loss(params: Params, image: np.ndarray, label: int) -> Callable[..., float]:
    """The loss in NumPy and float64 as a function of a change of c after a row."""
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    cell, head = double["cell"], double["head"]

    def loss(row: int, nudge: np.ndarray) -> float:
        c = h = np.zeros(UNITS)
        for number, pixels in enumerate(image / 255.0, 1):
            i, f, g, o = (
                pixels @ cell[f"i{gate}"]["kernel"]
                + h @ cell[f"h{gate}"]["kernel"]
                + cell[f"h{gate}"]["bias"]
                for gate in "ifgo"
            )
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            c = c + nudge * (number == row)
            h = np.tanh(c) / (1 + np.exp(-o))
        logits = h @ head["kernel"] + head["bias"]
        return float(np.log(np.exp(logits).sum()) - logits[label])

    return loss


def test_a_gradient_equals_a_finite_difference() -> None:
    _, params = build("lstm")
    loss = lstm_loss(params, IMAGES[0], LABELS[0])
    found = measured("lstm")
    for row, unit in [(1, 0), (9, 3), (28, 15)]:
        nudge = 1e-5 * np.eye(UNITS)[unit]
        slope = (loss(row, nudge) - loss(row, -nudge)) / 2e-5
        assert found.c[row - 1, 0, unit] == pytest.approx(slope, rel=1e-3, abs=1e-7)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(gradients.NUMBERS.read_text())


def test_the_file_records_the_default_configuration(recorded: dict[str, Any]) -> None:
    config = Config.from_dict(recorded["config"])
    default = load_config(REPOSITORY / "configs/default.py")
    assert config == default
    assert recorded["cells"].keys() == set(CELLS)


def test_the_recorded_quantiles_are_in_order(recorded: dict[str, Any]) -> None:
    for name, cell in recorded["cells"].items():
        for when in ("before", "after"):
            assert cell[when].keys() == ({"h", "c"} if name == "lstm" else {"h"})
            for part in cell[when].values():
                for table in map(np.array, part.values()):
                    assert table.shape == (len(recorded["quantiles"]), 28)
                    assert np.isfinite(table).all()
                    assert (table > 0).all()
                    assert (np.diff(table, axis=0) >= 0).all()
                assert (np.array(part["relative"])[:, -1] == 1).all()


def test_each_cell_of_the_plot_has_its_own_colour(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    colours: dict[str, str] = {}
    original = Axes.annotate

    def annotate(self: Axes, text: str, *args: Any, **settings: Any) -> Any:
        colours[text.split("  ")[0]] = settings["color"]
        return original(self, text, *args, **settings)

    monkeypatch.setattr(Axes, "annotate", annotate)
    assert gradients.plot(recorded).startswith(b"\x89PNG")
    assert colours.keys() == {"lstm c", "lstm h", "rnn h", "gru h"}
    assert colours["lstm c"] == colours["lstm h"]
    assert len(set(colours.values())) == 3
