"""Checks what part 2 of the tutorial says about its outputs; the page runs it last."""


def loss_from(h1):
    """Returns the loss if the basic cell reads the rows after the first."""
    h = scan_cell(basic_cell, basic_params["cell"], h1, pixels[1:])
    return state_loss(basic_params["head"], h[-1], 7)


h1 = basic_cell(basic_params["cell"], jnp.zeros(basic_model.units), pixels[0])
by_jax = jnp.linalg.norm(jax.grad(loss_from)(h1))
assert jnp.allclose(by_jax, norms[0], rtol=1e-3)
assert norms[0] / norms[27] < 0.1
assert jnp.allclose(norms[0], norms[6], rtol=1e-2)
assert norms[0] < norms[14] < norms[27]

half, twice = norms_by_kernel["kernel x 0.5"], norms_by_kernel["kernel x 2.0"]
assert half[0] / half[27] < 1e-9
assert jnp.allclose(twice[0] / twice[6], 2**6, rtol=1e-3)
assert twice[0] / twice[27] > 1e3
for name, found in run_accuracies.items():
    print(f"{name}: accuracy {found:.1%}")
original, doubled, too_fast, clipped = run_accuracies.values()
assert original > doubled + 0.05
assert clipped > too_fast + 0.15

bias_0, bias_1, bias_4 = (
    found[0] / found[-1] for found in norms_by_length[56].values()
)
assert bias_0 < 1e-6 < 0.005 < bias_1 < 0.3 < 1 < bias_4

assert check_cell(gru_cell, nn.GRUCell).startswith("the same")
bias_0, bias_1, bias_4, without_blank_rows = accuracies.values()
assert bias_0 + 0.1 < min(bias_1, bias_4)
assert max(bias_1, bias_4) < without_blank_rows - 0.01
