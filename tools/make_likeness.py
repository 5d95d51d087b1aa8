"""Makes rnnmnist/likeness.npz again from the embedded images.

    python tools/make_likeness.py

Of each digit's 400 training images, blurred, it keeps the mean and the directions in
which they vary most, in bytes; and how far from them all but a few of the 500 held-out
images lie. The arrays come out the same on every machine.
"""

from pathlib import Path

import numpy as np
from make_mnist5k import write

from rnnmnist.data import embedded
from rnnmnist.inference import out_of_distribution
from rnnmnist.inference.out_of_distribution import Likeness

DIMENSIONS = 24  # of a digit's flat
REFUSED = 0.01  # of the digits that were held out


def fit() -> Likeness:
    """What digits look like, from the embedded images' training and validation."""
    splits = embedded.splits()
    images, labels = splits["train"]
    # In double precision no byte hangs on a machine's rounding.
    pixels = out_of_distribution.blurred(images).astype(np.float64)
    flats = [flat(pixels[labels == digit]) for digit in range(10)]
    means, axes, scales = map(np.stack, zip(*flats, strict=True))
    found = Likeness(means, axes, scales, np.inf)
    distances = found.distances(*splits["validation"])
    farthest = round(float(np.quantile(distances, 1 - REFUSED)), 4)
    return found._replace(farthest=farthest)


def flat(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A digit's mean, directions and their scales, in bytes, as `Likeness` has them.

    Args:
        pixels: of its images, float64 [n, pixels].
    """
    mean = np.rint(255 * pixels.mean(0)).astype(np.uint8)
    _, _, directions = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    directions = directions[:DIMENSIONS]
    # Either sign is right; this one is the same everywhere.
    signs = np.sign(directions.sum(-1, keepdims=True))
    scales = np.abs(directions).max(-1, keepdims=True) / 127
    axes = np.rint(signs * directions / scales).astype(np.int8)
    return mean, axes, scales[:, 0].astype(np.float32)


def main(path: Path = out_of_distribution.PATH) -> None:
    """Writes the file."""
    found = fit()
    arrays = {name: np.asarray(array) for name, array in found._asdict().items()}
    write(path, arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, farthest {found.farthest}")


if __name__ == "__main__":
    main()
