"""MNIST-like data sets: a TFDS builder without TensorFlow, preparation and reading.

TFDS's own `mnist` encodes and decodes PNG with TensorFlow. This builder stores raw
pixels in ArrayRecord files, in the original order, in blocks of 100 images: reading a
record takes longer than its images. As in the 2016 tutorial, the first 5,000 training
images are the validation split.
"""

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import io
import itertools
import math
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import requests
import tensorflow_datasets as tfds  # noqa: TID251
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError  # noqa: TID251
from tensorflow_datasets.core.download.resource import get_dl_fname  # noqa: TID251

from rnnmnist.config.files import expand, open_folder, parse_folder
from rnnmnist.config.schema import DataConfig
from rnnmnist.data import datasets
from rnnmnist.data.datasets import IMAGE_SHAPE, Arrays
from rnnmnist.data.examples import SPLITS, Examples
from rnnmnist.errors import RunError, UserError, as_run_error, first_line

CVDF = "https://storage.googleapis.com/cvdf-datasets/mnist/"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CODH = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"

VALIDATION_EXAMPLES = 5_000
BLOCK = 100  # images in a record
NETWORK_SECONDS = 6.0  # TFDS itself takes minutes to report a missing network

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
            splits = datasets.embedded_images()
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


def prepared_builder(config: DataConfig) -> MnistRows:
    """Returns the builder of a data set, which is prepared if it is not yet."""
    tfds.disable_progress_bar()
    builder = make_builder(config)
    if not builder.is_prepared():
        with open_folder(Path(builder._data_dir_root)) as folder:
            with contextlib.suppress(OSError):  # without locks, each process prepares
                fcntl.flock(folder, fcntl.LOCK_EX)
            builder = make_builder(config)
            if not builder.is_prepared():  # by a process that held the lock
                _prepare(builder, config.manual_dir)
    return builder


def make_builder(config: DataConfig) -> MnistRows:
    """Returns the builder of a data set, which need not be prepared."""
    path = config.data_dir and parse_folder(config.data_dir, "data.data_dir")
    try:
        return MnistRows(config=config.name, data_dir=path, file_format="array_record")
    except Exception as error:  # TFDS reads prepared data, which may be damaged
        if as_run_error(error):
            raise
        raise RunError(
            f"the prepared data of {config.name} in {path or 'the default data_dir'} "
            f"are damaged ({first_line(error)}); delete their folder in mnist_rows"
        ) from error


def missing_urls(builder: MnistRows, manual_dir: str | None) -> list[str]:
    """Returns the original files that have to be downloaded, and checks all sources.

    Files in `manual_dir` must be the originals, and the host of missing ones must
    respond within `NETWORK_SECONDS`.
    """
    folder = None if manual_dir is None else expand(manual_dir)
    if folder is not None and not folder.is_dir():
        raise UserError(f"data.manual_dir: {folder} is not a folder")
    base = builder.builder_config.url
    if base is None:  # the images of this package
        return []
    missing = []
    for name in itertools.chain(*FILES.values()):
        url = base + name
        original = builder.url_infos[url]
        if folder is not None and (folder / name).exists():
            content = (folder / name).read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != original.checksum:
                raise UserError(
                    f"data.manual_dir: {folder / name} has {len(content)} bytes and "
                    f"SHA-256 {found}, but the original has {int(original.size)} bytes "
                    f"and SHA-256 {original.checksum}; fetch it again from {url}"
                )
        elif not any(_downloads(builder).rglob(get_dl_fname(url, original.checksum))):
            missing.append(url)
    if missing and not _responds(missing[0]):
        reason = f"no answer from {host_of(missing[0])}"
        raise _unavailable(builder, missing, reason)
    return missing


def host_of(url: str) -> str:
    """Returns the host, and the port if it is given."""
    return urllib.parse.urlparse(url).netloc


def _prepare(builder: MnistRows, manual_dir: str | None) -> None:
    missing = missing_urls(builder, manual_dir)
    print(f"preparing {builder.builder_config.name} in {builder.data_dir}", flush=True)
    if missing:
        size = sum(builder.url_infos[url].size for url in missing) / 1e6
        source = f"{size:.1f} MB, from {host_of(missing[0])}"
        print(f"downloading {len(missing)} files, {source}", flush=True)
    download_config = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else expand(manual_dir),
        force_checksums_validation=True,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints its own
            builder.download_and_prepare(download_config=download_config)
    except NonMatchingChecksumError as error:
        # TFDS names the checksums and then explains how to debug its builders.
        reason = str(error).partition("To debug")[0]
        raise UserError(
            f"data.name: a download differs from the original: {reason}"
        ) from error
    except (tfds.download.DownloadError, requests.RequestException) as error:
        raise _unavailable(builder, missing, str(error)) from error
    finally:
        for unfinished in _downloads(builder).rglob("*.tmp.*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _downloads(builder: MnistRows) -> Path:
    return Path(builder._data_dir_root) / "downloads"


def _responds(url: str) -> bool:
    responses: list[bool] = []

    def send() -> None:
        with contextlib.suppress(requests.RequestException):
            responses.append(requests.head(url, timeout=NETWORK_SECONDS).ok)

    # In a thread, because a DNS lookup has no timeout of its own.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    return any(responses)


def _unavailable(builder: MnistRows, missing: list[str], reason: str) -> UserError:
    names = ", ".join(url.rpartition("/")[2] for url in missing)
    return UserError(
        f"data.name: {builder.builder_config.name} is not prepared in "
        f"{builder.data_dir} and cannot be downloaded ({reason}): download {names} "
        f"from {builder.builder_config.url} into the folder that data.manual_dir "
        "names; configs/embedded.py needs no files"
    )


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
