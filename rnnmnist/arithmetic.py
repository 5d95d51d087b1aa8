"""Arithmetic that every package may use. Importing this module imports nothing."""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import jax
    import numpy as np

Integers = TypeVar("Integers", int, "np.ndarray", "jax.Array")


def ceil_div(a: Integers, b: int) -> Integers:
    """Returns a / b, rounded up, of integers, arrays of them or symbolic dimensions."""
    return -(-a // b)
