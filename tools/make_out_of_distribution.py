"""Rebuilds rnnmnist/inference/out_of_distribution.npz from the embedded images.

    python tools/make_out_of_distribution.py

Fits a PCA subspace to the 400 blurred training images of each digit and quantizes it to
bytes. The maximum distance is a quantile over the 500 validation images. The arrays are
the same on every machine.
"""

from pathlib import Path

import numpy as np
from make_mnist5k import write

from rnnmnist.data import embedded
from rnnmnist.inference import out_of_distribution
from rnnmnist.inference.out_of_distribution import OutOfDistributionCheck

DIMENSIONS = 24  # of each subspace
REJECTED = 0.01  # fraction of the validation images


def fit() -> OutOfDistributionCheck:
    """Fits the subspaces to the training split and the threshold to validation."""
    splits = embedded.splits()
    images, labels = splits["train"]
    # Double precision, so that quantization does not depend on a machine's rounding.
    pixels = out_of_distribution.blur(images).astype(np.float64)
    subspaces = [fit_subspace(pixels[labels == digit]) for digit in range(10)]
    means, components, scales = map(np.stack, zip(*subspaces, strict=True))
    check = OutOfDistributionCheck(means, components, scales, np.inf)
    distances = check.distances(*splits["validation"])
    return check._replace(
        max_distance=round(float(np.quantile(distances, 1 - REJECTED)), 4)
    )


def fit_subspace(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits a subspace to one digit's images, float64 [n, pixels].

    Returns:
        The mean, the components and their scales, as `OutOfDistributionCheck` has them.
    """
    mean = np.rint(255 * pixels.mean(0)).astype(np.uint8)
    _, _, directions = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    directions = directions[:DIMENSIONS]
    # The sign of a component is arbitrary; this choice is the same everywhere.
    signs = np.sign(directions.sum(-1, keepdims=True))
    scales = np.abs(directions).max(-1, keepdims=True) / 127
    components = np.rint(signs * directions / scales).astype(np.int8)
    return mean, components, scales[:, 0].astype(np.float32)


def main(path: Path = out_of_distribution.PATH) -> None:
    """Writes the file."""
    check = fit()
    write(path, {name: np.asarray(array) for name, array in check._asdict().items()})
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes, max_distance {check.max_distance}")


if __name__ == "__main__":
    main()
