"""The data sets of images by their names: their tasks, and the shipped images."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import SPLITS, View

IMAGE_SHAPE = (28, 28)
DIGITS = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_SYLLABLES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

SIZES = {"train": 55_000, "validation": 5_000, "test": 10_000}


class ImageSet(NamedTuple):
    """What is known of a data set of images before its files are read."""

    classes: tuple[str, ...]
    sizes: dict[str, int]  # of each split
    # The SHA-256 of all splits; None where the original files have checksums.
    sha256: str | None = None


IMAGE_SETS = {
    "mnist": ImageSet(DIGITS, SIZES),
    "fashion_mnist": ImageSet(_GARMENTS, SIZES),
    "kmnist": ImageSet(_SYLLABLES, SIZES),
    "mnist5k": ImageSet(
        DIGITS,
        {"train": 4_000, "validation": 500, "test": 500},
        sha256="334ebd8e3c93aaa3daf7db3f0268123055d66eb05998ba4ed018a7e27223f5d3",
    ),
}
EMBEDDED = Path(__file__).parent / "mnist5k.npz"


def image_task(config: DataConfig) -> Task:
    """Returns the task of a data set of images, which need not be prepared."""
    image_set = IMAGE_SETS[config.name]
    view = View(config.view, config.permutation)
    _, time_steps, features = view(np.zeros((1, *IMAGE_SHAPE))).shape
    return Task(
        config.name,
        time_steps,
        features,
        image_set.classes,
        image_set.sizes,
        IMAGE_SHAPE,
        sha256=image_set.sha256,
    )


def embedded_images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the splits of `mnist5k`, which the package ships.

    They are images, uint8 [n, 28, 28], and labels, uint8 [n], as many of each class.
    Each split is a random sample of each class, which never changes. Its examples are
    in the order of the file, which is sorted by class.
    """
    with np.load(EMBEDDED, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    indices = np.arange(len(labels)).reshape(10, 500)  # [class, image]
    # The stream of a Generator may change between versions of NumPy.
    generator = np.random.RandomState(0)
    drawn = np.stack([generator.permutation(one_class) for one_class in indices])
    parts = np.split(drawn, [400, 450], axis=1)
    splits = {}
    for split, part in zip(SPLITS, parts, strict=True):
        selected = np.sort(part, axis=None)
        splits[split] = (images[selected], labels[selected])
    return splits
