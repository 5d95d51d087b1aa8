"""Reads the images that TFDS has prepared, as plain arrays."""

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.data.datasets import IMAGE_SHAPE
from rnnmnist.data.examples import SPLITS, Examples
from rnnmnist.data.images.builder import MnistRows
from rnnmnist.data.images.preparation import prepared_builder
from rnnmnist.errors import RunError, first_line


def load(config: DataConfig) -> dict[str, Examples]:
    """Loads every split of a data set, in the original order.

    The data set is prepared if it is not yet.
    """
    builder = prepared_builder(config)
    return {split: decode(builder, split) for split in SPLITS}


def decode(builder: MnistRows, split: str) -> Examples:
    """Reads a prepared split; a damaged block fails its own checksum."""
    try:
        source = builder.as_data_source(split)
        blocks = source.__getitems__(range(len(source)))
        images = np.concatenate([block["images"] for block in blocks])
        labels = np.concatenate([block["labels"] for block in blocks])
        if images.shape != (len(labels), *IMAGE_SHAPE) or labels.max() > 9:
            raise ValueError(f"{split} has images of shape {images.shape}")
    except Exception as error:  # array_record and TFDS raise many types
        raise RunError(
            f"{builder.data_dir} is damaged ({first_line(error)}); delete this folder "
            "to prepare it again"
        ) from error
    return Examples(images, labels=labels.astype(np.int32))
