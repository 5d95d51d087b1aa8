"""MNIST and its kin as a TFDS data set that TensorFlow is not needed for.

TFDS's own `mnist` decodes and encodes PNG with TensorFlow. This builder keeps
the pixels as they are, in ArrayRecord files, in the originals' order, and
splits as the 2016 tutorial did: the first 5,000 training images are validation.
"""

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from rnnmnist.data import embedded
from rnnmnist.data.embedded import Arrays

CVDF = "https://storage.googleapis.com/cvdf-datasets/mnist/"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CODH = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"

VALIDATION_EXAMPLES = 5_000

DIGITS = [str(digit) for digit in range(10)]
GARMENTS = [
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
]
SYLLABLES = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]

# The files of each part, images first, under every original's host.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class RowsConfig(tfds.core.BuilderConfig):
    """One of the data sets: its class names, and the host of its files."""

    def __init__(self, *, url: str | None, classes: list[str], **kwargs: Any) -> None:
        super().__init__(version="1.0.0", **kwargs)
        self.url = url  # None: the images that the package ships
        self.classes = classes


class MnistRows(tfds.core.GeneratorBasedBuilder):
    """28 x 28 grey images of ten classes, to be read row by row."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[RowsConfig]] = [
        RowsConfig(name="mnist", url=CVDF, classes=DIGITS),
        RowsConfig(name="fashion_mnist", url=ZALANDO, classes=GARMENTS),
        RowsConfig(name="kmnist", url=CODH, classes=SYLLABLES),
        RowsConfig(name="mnist5k", url=None, classes=DIGITS),
    ]

    builder_config: RowsConfig

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(28, 28), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(
                        names=self.builder_config.classes
                    ),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        url = self.builder_config.url
        if url is None:
            splits = embedded.splits()
        else:
            paths = dl_manager.download(
                {part: [url + name for name in names] for part, names in FILES.items()}
            )
            splits = split_originals(*(read_part(*paths[part]) for part in FILES))
        return {
            name: self._generate_examples(*arrays) for name, arrays in splits.items()
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


def split_originals(train: Arrays, test: Arrays) -> dict[str, Arrays]:
    """The tutorial's splits: the first 5,000 training images are validation."""
    images, labels = train
    return {
        "train": (images[VALIDATION_EXAMPLES:], labels[VALIDATION_EXAMPLES:]),
        "validation": (images[:VALIDATION_EXAMPLES], labels[:VALIDATION_EXAMPLES]),
        "test": test,
    }


def read_part(images_path: Path, labels_path: Path) -> Arrays:
    """Decodes a pair of the original files, whose checksums TFDS has compared."""
    images, labels = read_idx(images_path, rank=3), read_idx(labels_path, rank=1)
    if images.shape != (len(labels), 28, 28):
        raise ValueError(f"{images_path} and {labels_path} do not belong together")
    return images, labels


def read_idx(path: Path, rank: int) -> np.ndarray:
    """A uint8 array from a gzipped IDX file.

    The format: two zero bytes, the type (8: unsigned byte), the rank, then each
    dimension as a big-endian 32-bit number, then the elements in C order.

    Raises:
        ValueError: when the file is not of that format, rank or length.

    References:
        LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    with gzip.open(path) as file:
        header = file.read(4 + 4 * rank)
        elements = file.read()
    if header[:4] != bytes([0, 0, 8, rank]):
        raise ValueError(f"{path} is not an IDX file of bytes of rank {rank}")
    shape = [int(size) for size in np.frombuffer(header, ">u4", offset=4)]
    if math.prod(shape) != len(elements):
        raise ValueError(f"{path} holds {len(elements)} elements, not {shape}")
    return np.frombuffer(elements, np.uint8).reshape(shape)
