"""Checks what part 1 of the tutorial says about its outputs; the page runs it last."""

assert not jnp.allclose(
    read_with_memory("listen"), read_with_memory("silent"), atol=0.1
)
assert jnp.allclose(
    read_without_memory("listen"), read_without_memory("silent"), atol=1e-5
)
assert 0.92 < baseline < accuracy(model, trained_params, images, labels) - 0.01
assert losses[-20:].mean() < 0.1 < 2.2 < losses[0] < 2.4

assert check_cell(basic_cell, nn.SimpleCell).startswith("the same")
assert check_cell(lstm_cell, nn.LSTMCell).startswith("the same")
assert check_cell(lambda *_: jnp.zeros(3), nn.GRUCell).startswith("different")
for found in (by_hand_accuracy, coupled_accuracy, *accuracies.values()):
    assert abs(found - baseline) < 0.06

above_the_digit = jnp.cumsum(val_images.max(axis=2) > 0, axis=1) == 0
for digit, row, unit in units:
    assert jnp.abs(states[..., unit])[above_the_digit].mean() < 0.3
    assert distances(digit, row)[unit] > 0.9
_, _, first = units[0]
falls_to = distances(7, 28)[first] / distances(7, 16)[first]
print(f"the distance of the first unit falls to {falls_to:.0%}")
assert falls_to < 0.9
