"""JAX's default dtype promotion for tests that call the training step directly."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def default_promotion() -> Iterator[None]:
    """Allows dtype promotion, as `jax_defaults` does in a run."""
    with jax.numpy_dtype_promotion("standard"):
        yield
