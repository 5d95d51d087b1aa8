"""MNIST-like data sets as a TFDS builder that does not need TensorFlow.

TFDS's own `mnist` encodes and decodes PNG with TensorFlow. This builder stores raw
pixels in ArrayRecord files, in the original order, in blocks of 100 images: reading a
record takes longer than its images. As in the 2016 tutorial, the first 5,000 training
images are the validation split.
"""

import dataclasses
import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds  # noqa: TID251

from rnnmnist.data import embedded
from rnnmnist.data.datasets import IMAGE_SHAPE
from rnnmnist.data.embedded import Arrays

CVDF = "https://storage.googleapis.com/cvdf-datasets/mnist/"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CODH = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"

VALIDATION_EXAMPLES = 5_000
BLOCK = 100  # images in a record

# The original files of each split, images first; the names are the same on every host.
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class RowsConfig(tfds.core.BuilderConfig):
    """A data set and the URL of its original files."""

    url: str | None  # None for the images that the package ships


class MnistRows(tfds.core.GeneratorBasedBuilder):
    """Images of 28 x 28 grey pixels in ten classes, in the original order."""

    VERSION = tfds.core.Version("3.0.0")
    BUILDER_CONFIGS: ClassVar[list[RowsConfig]] = [
        RowsConfig(name="mnist", url=CVDF),
        RowsConfig(name="fashion_mnist", url=ZALANDO),
        RowsConfig(name="kmnist", url=CODH),
        RowsConfig(name="mnist5k", url=None),
    ]

    builder_config: RowsConfig

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {"images": bytes_of(*IMAGE_SHAPE), "labels": bytes_of()}
            ),
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
                {name: [url + file for file in files] for name, files in FILES.items()}
            )
            images, labels = read_pair(*paths["train"])
            held_out = VALIDATION_EXAMPLES
            splits = {
                "train": (images[held_out:], labels[held_out:]),
                "validation": (images[:held_out], labels[:held_out]),
                "test": read_pair(*paths["test"]),
            }
        return {
            name: self._generate_examples(*arrays) for name, arrays in splits.items()
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for start in range(0, len(labels), BLOCK):
            block = slice(start, start + BLOCK)
            yield start, {"images": images[block], "labels": labels[block]}


def bytes_of(*shape: int) -> tfds.features.Tensor:
    """Returns the feature of a block of arrays, whose bytes are stored as they are.

    TFDS's default, a list of varints, takes three times as long to read.
    """
    return tfds.features.Tensor(shape=(None, *shape), dtype=np.uint8, encoding="bytes")


def read_pair(images_path: Path, labels_path: Path) -> Arrays:
    """Decodes a pair of original files, images and labels."""
    images = read_idx(images_path, rank=3)
    labels = read_idx(labels_path, rank=1)
    if images.shape != (len(labels), *IMAGE_SHAPE):
        raise ValueError(f"{images_path} and {labels_path} do not belong together")
    return images, labels


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads a uint8 array from a gzipped IDX file.

    The format is two zero bytes, the type (8: unsigned byte), the rank, each dimension
    as a big-endian 32-bit integer, and the elements in C order.

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
