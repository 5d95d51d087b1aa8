"""Images as plain arrays: prepared once through TFDS, decoded once.

TFDS downloads files, compares checksums, and stores the prepared records under its
`data_dir`. The decoded arrays are cached next to the records. A cache is used only if
its checksum, shapes, types and labels are valid.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.data.builder import MnistRows
from rnnmnist.data.datasets import IMAGE_SHAPE
from rnnmnist.data.examples import SPLITS, Examples
from rnnmnist.data.preparation import prepared_builder
from rnnmnist.errors import RunError, first_line
from rnnmnist.runtime.files import write_atomically

RECORDS_PER_READ = 1000  # reading records one by one is many times slower

_logger = logging.getLogger(__name__)


def load(config: DataConfig, *, cache: bool = True) -> dict[str, Examples]:
    """Loads every split of a data set, in the original order.

    With `cache`, newly decoded arrays are written to the cache.
    """
    builder = prepared_builder(config)
    counts = {split: builder.info.splits[split].num_examples for split in SPLITS}
    path = Path(builder.data_dir) / "arrays.npz"
    examples = read_cache(path, counts)
    if examples is None:
        examples = {split: decode(builder, split) for split in SPLITS}
        if fault := find_fault(examples, counts):
            raise RunError(f"{builder.data_dir}: {fault}; delete this folder")
        if cache:
            write_cache(path, examples)
    return examples


def read_cache(path: Path, counts: dict[str, int]) -> dict[str, Examples] | None:
    """Reads cached arrays, whose splits must have the given numbers of examples.

    Returns None if there is no cache, or, with a warning, if it is invalid.
    """
    try:
        content = path.read_bytes()
        expected = checksum_path(path).read_text().strip()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError("its SHA-256 differs from the saved one")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            examples = {
                split: Examples(
                    file[f"{split}_images"], file[f"{split}_labels"].astype(np.int32)
                )
                for split in SPLITS
            }
        if fault := find_fault(examples, counts):
            raise ValueError(fault)
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy and zipfile raise many types
        _logger.warning("decoding again: %s is invalid (%s)", path, first_line(error))
        return None
    return examples


def write_cache(path: Path, examples: dict[str, Examples]) -> None:
    """Caches decoded arrays and their checksum, each file atomically."""
    arrays: dict[str, Any] = {}
    for split, own in examples.items():
        labels = own.labels.astype(np.uint8)
        arrays |= {f"{split}_images": own.stored, f"{split}_labels": labels}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = buffer.getvalue()
    try:
        write_atomically(path, content)
        checksum = hashlib.sha256(content).hexdigest()
        write_atomically(checksum_path(path), checksum.encode())
    except OSError as error:
        _logger.warning("the decoded arrays are not cached: %s", error)


def checksum_path(path: Path) -> Path:
    """Returns the path of the checksum of a cache file."""
    return path.with_name(path.name + ".sha256")


def find_fault(examples: dict[str, Examples], counts: dict[str, int]) -> str | None:
    """Describes the first fault of decoded arrays; returns None if they are valid."""
    for split, own in examples.items():
        images, labels = own.stored, own.labels
        if images.shape != (counts[split], *IMAGE_SHAPE) or images.dtype != np.uint8:
            return f"{split} images are {images.dtype} {images.shape}"
        if labels.shape != (counts[split],):
            return f"{split} labels are {labels.dtype} {labels.shape}"
        if not 0 <= labels.min() <= labels.max() <= 9:
            return f"{split} has a label {labels.max()}, above 9"
    return None


def decode(builder: MnistRows, split: str) -> Examples:
    """Reads a prepared split through TFDS, in its order."""
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *IMAGE_SHAPE), np.uint8)
    labels = np.empty(count, np.int32)
    try:
        source = builder.as_data_source(split)
        for start in range(0, count, RECORDS_PER_READ):
            indices = range(start, min(start + RECORDS_PER_READ, count))
            for index, row in zip(indices, source.__getitems__(indices), strict=True):
                images[index] = row["image"]
                labels[index] = row["label"]
    except Exception as error:  # array_record and TFDS raise many types
        raise RunError(
            f"{builder.data_dir} is damaged ({first_line(error)}); delete this folder "
            "to prepare it again"
        ) from error
    return Examples(images, labels)
