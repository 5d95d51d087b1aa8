"""Random keys depend on the seed only."""

import jax
import numpy as np
import pytest
from support import jax_settings

from rnnmnist.runtime.random_streams import Stream, stream_key


@pytest.mark.parametrize("seed", np.array([3, 2**32 - 1], np.uint32))
def test_keys_equal_the_default_keys_of_jax(seed: np.uint32) -> None:
    expected = jax.random.fold_in(jax.random.key(seed), Stream.SHUFFLE)
    others = {"jax_default_prng_impl": "unsafe_rbg", "jax_random_seed_offset": 7}
    with jax_settings(others):
        found = stream_key(seed, Stream.SHUFFLE)
    assert found == expected
