"""Arithmetic that every package may use."""

import jax.numpy as jnp
import numpy as np

from rnnmnist.arithmetic import ceil_div


def test_quotients_are_rounded_up() -> None:
    values = np.arange(50)
    for divisor in (1, 3, 28):
        rounded = ceil_div(values, divisor)
        assert (divisor * rounded >= values).all()
        assert (divisor * (rounded - 1) < values).all()
        assert rounded.tolist() == [ceil_div(int(value), divisor) for value in values]
        np.testing.assert_array_equal(rounded, ceil_div(jnp.asarray(values), divisor))
