"""The data sets of images by their names: their tasks, and the shipped images."""

from pathlib import Path

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import SPLITS, View

IMAGE_SHAPE = (28, 28)
_DIGITS = tuple("0123456789")
_GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_SYLLABLES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

_SIZES = {"train": 55_000, "validation": 5_000, "test": 10_000}

IMAGE_SETS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "mnist": (_DIGITS, _SIZES),
    "fashion_mnist": (_GARMENTS, _SIZES),
    "kmnist": (_SYLLABLES, _SIZES),
    "mnist5k": (_DIGITS, {"train": 4_000, "validation": 500, "test": 500}),
}
EMBEDDED = Path(__file__).parent / "mnist5k.npz"


def image_task(config: DataConfig) -> Task:
    """Returns the task of a data set of images, which need not be prepared."""
    classes, examples = IMAGE_SETS[config.name]
    view = View(config.view, config.permutation)
    _, time_steps, features = view(np.zeros((1, *IMAGE_SHAPE))).shape
    return Task(config.name, time_steps, features, classes, examples, IMAGE_SHAPE)


def embedded_images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the splits of the images that the package ships, read without TFDS.

    They are images, uint8 [n, 28, 28], and labels, uint8 [n], as many of each class.
    """
    with np.load(EMBEDDED, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]  # sorted by class
    indices = np.split(np.arange(len(labels)).reshape(10, 500), [400, 450], axis=1)
    parts = zip(SPLITS, map(np.ravel, indices), strict=True)
    return {name: (images[part], labels[part]) for name, part in parts}
