"""A data set as plain arrays: prepared through TFDS once, decoded once.

TFDS downloads, compares checksums, and keeps the prepared records under its
`data_dir`. Beside them lie the decoded arrays, which a start reads in a moment
and believes only if their hash, counts, shapes, types and labels are right.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnmnist.config.schema import DataConfig
from rnnmnist.data.builder import MnistRows
from rnnmnist.data.preparation import prepared_builder
from rnnmnist.errors import RunError, first_line
from rnnmnist.runtime.files import write_atomically

SPLITS = ("train", "validation", "test")
READ_AT_ONCE = 1000  # records, since reading one by one takes many times as long

_logger = logging.getLogger(__name__)


class Examples(NamedTuple):
    """Images and what they show."""

    images: np.ndarray  # uint8 [examples, 28, 28]
    labels: np.ndarray  # uint8 [examples]


def load(config: DataConfig, *, keep: bool = True) -> dict[str, Examples]:
    """All splits of a data set, in their order, prepared first if they are not.

    Args:
        config: of the data set.
        keep: whether arrays that had to be decoded are kept for the next start.

    Returns:
        Examples for each of `SPLITS`.

    Raises:
        UserError: with no data and no network, or for a file that is not the
            original; nothing half-prepared stays.
        RunError: when what TFDS prepared is damaged.
    """
    builder = prepared_builder(config)
    counts = {split: builder.info.splits[split].num_examples for split in SPLITS}
    cache = Path(builder.data_dir) / "arrays.npz"
    examples = read_arrays(cache, counts)
    if examples is None:
        examples = {split: decode(builder, split) for split in SPLITS}
        fault = fault_of(examples, counts)
        if fault:
            raise RunError(f"{builder.data_dir}: {fault}; delete this folder")
        if keep:
            write_arrays(cache, examples)
    return examples


def class_names(name: str) -> list[str]:
    """What the ten labels of a data set stand for, in their order."""
    (found,) = [config for config in MnistRows.BUILDER_CONFIGS if config.name == name]
    return list(found.classes)


def read_arrays(path: Path, counts: dict[str, int]) -> dict[str, Examples] | None:
    """The decoded arrays from an earlier start.

    Args:
        path: of the `.npz` file; its SHA-256 lies beside it.
        counts: examples that each split must have.

    Returns:
        The examples, or None where there are none, or none to be believed (then
        a warning says why).
    """
    try:
        content = path.read_bytes()
        expected = hash_path(path).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        _logger.warning("decoding again: %s cannot be read: %s", path, error)
        return None
    fault: str | None = "its SHA-256 is not the one beside it"
    if hashlib.sha256(content).hexdigest() == expected:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                examples = {
                    split: Examples(file[f"{split}_images"], file[f"{split}_labels"])
                    for split in SPLITS
                }
            fault = fault_of(examples, counts)
        except Exception as error:  # NumPy and zipfile raise many kinds
            fault = f"{type(error).__name__}: {error}"
    if fault is None:
        return examples
    _logger.warning("decoding again: %s is damaged: %s", path, fault)
    return None


def write_arrays(path: Path, examples: dict[str, Examples]) -> None:
    """Keeps decoded arrays for the next start; each file appears whole or not."""
    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in examples.items():
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    try:
        for target, data in ((path, content), (hash_path(path), digest.encode())):
            write_atomically(target, data)
    except OSError as error:
        _logger.warning("decoded arrays are not kept for the next start: %s", error)


def hash_path(path: Path) -> Path:
    """Where the SHA-256 of a file of arrays lies."""
    return path.with_name(path.name + ".sha256")


def fault_of(examples: dict[str, Examples], counts: dict[str, int]) -> str | None:
    """What is wrong with decoded arrays; None when nothing is."""
    for split, (images, labels) in examples.items():
        if images.shape != (counts[split], 28, 28) or images.dtype != np.uint8:
            return f"{split} images are {images.dtype} {images.shape}"
        if labels.shape != (counts[split],) or labels.dtype != np.uint8:
            return f"{split} labels are {labels.dtype} {labels.shape}"
        if labels.max() > 9:
            return f"{split} has a label {labels.max()}, above 9"
    return None


def decode(builder: MnistRows, split: str) -> Examples:
    """Reads a prepared split through TFDS, in its order.

    Raises:
        RunError: when what was prepared cannot be read.
    """
    counts = builder.info.splits[split].num_examples
    images = np.empty((counts, 28, 28), np.uint8)
    labels = np.empty(counts, np.uint8)
    try:
        source = builder.as_data_source(split)
        for start in range(0, counts, READ_AT_ONCE):
            indices = range(start, min(start + READ_AT_ONCE, counts))
            for index, row in zip(indices, source.__getitems__(indices), strict=True):
                images[index], labels[index] = row["image"], row["label"]
    except Exception as error:  # array_record and TFDS raise many kinds
        raise RunError(
            f"{builder.data_dir} is damaged ({first_line(error)}); delete this "
            "folder, and it will be prepared again"
        ) from error
    return Examples(images, labels)
