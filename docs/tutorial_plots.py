# Plots of the tutorial
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np


def plot_units(units, states, labels):
    """Plots quantiles of cell states. `units` lists digits, rows and units."""
    _, grid = plt.subplots(
        2, 2, figsize=(5.5, 6), sharex=True, sharey=True, layout="constrained"
    )
    quantiles = jnp.array([0.1, 0.5, 0.9])
    for axes, (digit, row, unit) in zip(grid.flat, units):
        is_digit = labels == digit
        for name, mask in ((f"digit {digit}", is_digit), ("other digits", ~is_digit)):
            low, median, high = jnp.quantile(states[mask, :, unit], quantiles, axis=0)
            axes.plot(median, range(1, 29), label=name)
            axes.fill_betweenx(range(1, 29), low, high, alpha=0.3)
        axes.axhline(row, color="gray", linestyle=":")
        axes.set_title(f"unit {unit}, chosen at row {row}", fontsize=10)
        axes.legend(fontsize=9)
        axes.set(ylim=(28.5, 0.5), xlabel="cell state c", ylabel="row")
        axes.label_outer()
    plt.show()


def plot_by_row(curves, rows, state):
    """Plots norms by row, relative to the last row, next to the rows of the image."""
    _, (left, right) = plt.subplots(
        1, 2, figsize=(5.8, 3.2), sharey=True, width_ratios=(3, 4), layout="constrained"
    )
    length = len(rows)
    extent = (0.5, 28.5, length + 0.5, 0.5)
    left.imshow(rows, cmap="gray", extent=extent, aspect="auto")
    left.set_xticks([])
    left.set_ylabel("row")
    for name, norms in curves.items():
        right.plot(norms / norms[-1], jnp.arange(1, len(norms) + 1), label=name)
    right.set_xscale("log")
    title = f"norm of the gradient with respect to {state},"
    right.set_xlabel(f"{title}\nrelative to the last row")
    right.grid(alpha=0.4)
    right.legend(loc="lower left", fontsize=8)
    plt.show()


def plot_errors(errors):
    """Plots the errors of three networks by digit, for validation and test images."""
    _, axes = plt.subplots(figsize=(5.5, 3))
    for shift, name in ((-0.2, "validation"), (0.2, "test")):
        by_digit = errors[name].reshape(3, 10, 50).sum(axis=(0, 2))
        axes.bar(np.arange(10) + shift, by_digit, width=0.4, label=name)
    axes.set_xticks(range(10))
    axes.set_xlabel("digit")
    axes.set_ylabel("errors of three networks")
    axes.legend()
    plt.show()


def plot_images(images, is_framed):
    """Plots 50 images, some of them in a red frame."""
    _, grid = plt.subplots(5, 10, figsize=(6.5, 3.4), layout="constrained")
    for number, axes in enumerate(grid.flat):
        axes.imshow(images[number], cmap="gray")
        axes.set(xticks=[], yticks=[])
        if is_framed[number]:
            for side in axes.spines.values():
                side.set(color="red", linewidth=3)
    plt.show()
