"""Tasks of the image data sets, and the images bundled with the package."""

from dataclasses import replace
from pathlib import Path

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

CLASSES = {
    "mnist": DIGITS,
    "fashion_mnist": _GARMENTS,
    "kmnist": _SYLLABLES,
    "mnist5k": DIGITS,
}
SIZES = {"train": 55_000, "validation": 5_000, "test": 10_000}

# The bundled images: file, split sizes, and the SHA-256 over all splits. For the other
# data sets, `checksums.tsv` contains the checksums of the downloaded files.
EMBEDDED = Path(__file__).parent / "mnist5k.npz"
EMBEDDED_SIZES = {"train": 4_000, "validation": 500, "test": 500}
EMBEDDED_SHA256 = "334ebd8e3c93aaa3daf7db3f0268123055d66eb05998ba4ed018a7e27223f5d3"


def image_task(config: DataConfig) -> Task:
    """Returns the task of an image data set, without downloading or preparing it."""
    view = View(config.view, config.permutation)
    _, time_steps, features = view(np.zeros((1, *IMAGE_SHAPE))).shape
    classes = CLASSES[config.name]
    task = Task(config.name, time_steps, features, classes, SIZES, IMAGE_SHAPE)
    if config.name == "mnist5k":
        return replace(task, examples=EMBEDDED_SIZES, sha256=EMBEDDED_SHA256)
    return task


def embedded_images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Loads the splits of `mnist5k`, the data set bundled with the package.

    The splits are drawn with a fixed seed. Each split is balanced and sorted by class.

    Returns:
        Images, uint8 [n, 28, 28], and labels, uint8 [n], for each split.
    """
    with np.load(EMBEDDED, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    indices = np.arange(len(labels)).reshape(10, 500)  # [class, image]
    # RandomState is frozen; Generator streams may change between NumPy versions.
    generator = np.random.RandomState(0)
    shuffled = np.stack(
        [generator.permutation(class_indices) for class_indices in indices]
    )
    shuffled_by_split = np.split(shuffled, [400, 450], axis=1)
    splits = {}
    for split, split_indices in zip(SPLITS, shuffled_by_split, strict=True):
        order = np.sort(split_indices, axis=None)
        splits[split] = (images[order], labels[order])
    return splits
