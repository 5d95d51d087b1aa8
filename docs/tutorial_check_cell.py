# Comparison of a cell with Flax's
import jax
import jax.numpy as jnp
import optax


def check_cell(cell, flax_cell, units=8, features=5):
    """Compares the states of a cell with those of Flax, for random parameters.

    `cell(params, carry, row)` returns the next carry, in Flax's order.
    """
    theirs = flax_cell(units)
    rows = jax.random.normal(jax.random.key(1), (6, features))
    carry = theirs.initialize_carry(jax.random.key(0), (features,))
    params = theirs.init(jax.random.key(0), carry, rows[0])["params"]
    params = optax.tree.random_like(jax.random.key(2), params)  # biases, too
    for number, row in enumerate(rows, 1):
        next_carry, _ = theirs.apply({"params": params}, carry, row)
        expected = jnp.array(next_carry)
        actual = jnp.array(cell(params, carry, row))
        if actual.shape != expected.shape:
            return f"different: states of shape {actual.shape}, not {expected.shape}"
        error = jnp.abs(actual - expected).max()
        if not error < 1e-5:
            return f"different: after row {number}, a state differs by {error:.1g}"
        carry = next_carry
    return f"the same states as {flax_cell.__name__}"
