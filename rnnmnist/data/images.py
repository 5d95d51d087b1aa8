"""Prepares and reads MNIST-like data sets with a TFDS builder that needs no TensorFlow.

The `mnist` builder of TFDS uses TensorFlow to encode and decode PNG images. This
builder stores raw pixels in ArrayRecord files, in the original order. A record contains
100 images; with one image per record, overhead would dominate the reading time. As in
the 2016 tutorial, the first 5,000 training images are the validation split.
"""

import contextlib
import gzip
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import requests
import tensorflow_datasets as tfds  # noqa: TID251

from rnnmnist.config.files import parse_folder
from rnnmnist.config.schema import DataConfig
from rnnmnist.data.examples import SPLITS, Examples
from rnnmnist.data.image_datasets import IMAGE_SHAPE, SIZES
from rnnmnist.errors import MissingDataError, RunError, UserError, prefix_errors
from rnnmnist.runtime.jax_defaults import suppress_library_logs

URLS = {  # base URLs of the original files
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "kmnist": "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
}
# The original files have the same names on every host.
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
IMAGES_PER_RECORD = 100
PREPARE_HINT = "delete this folder to prepare the data again"
TIMEOUT = 6.0  # seconds; TFDS takes minutes to report a network failure

_logger = logging.getLogger(__name__)


class MnistRows(tfds.core.GeneratorBasedBuilder):
    """Greyscale images of 28 x 28 pixels in ten classes, in the original order."""

    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=name, version="3.0.0") for name in URLS
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        shapes = {"images": (None, *IMAGE_SHAPE), "labels": (None,)}
        # TFDS's default encoding, a list of varints, is three times slower to read.
        features = {
            name: tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
            for name, shape in shapes.items()
        }
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, np.ndarray]]]]:
        # The files are downloaded one after another, so that after a failure no other
        # thread is still writing to the folder.
        base = URLS[self.builder_config.name]
        paths = [dl_manager.download(base + name) for name in FILES]
        images, labels, test_images, test_labels = map(read_idx, paths)
        num_validation = SIZES["validation"]
        generate = self._generate_examples
        return {
            "train": generate(images[num_validation:], labels[num_validation:]),
            "validation": generate(images[:num_validation], labels[:num_validation]),
            "test": generate(test_images, test_labels),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for start in range(0, len(labels), IMAGES_PER_RECORD):
            block = slice(start, start + IMAGES_PER_RECORD)
            yield start, {"images": images[block], "labels": labels[block]}


def read_idx(path: Path) -> np.ndarray:
    """Reads a uint8 array from a gzipped IDX file.

    The file contains two zero bytes, a code for the dtype (8: uint8), the rank, the
    shape as big-endian 32-bit integers, and the elements in C order.

    References:
        LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


@suppress_library_logs()
def load_splits(config: DataConfig) -> dict[str, Examples]:
    """Loads all splits in the original order; prepares the data set if necessary."""
    tfds.disable_progress_bar()
    builder = make_builder(config)
    if not builder.info.splits:  # the data set is not prepared
        _prepare(builder, config.manual_dir)
        builder = make_builder(config)
    with prefix_errors(builder.data_dir, PREPARE_HINT, RunError):
        return {split: _read_split(builder, split) for split in SPLITS}


def make_builder(config: DataConfig) -> MnistRows:
    """Creates the builder of a data set, even if the data set is not prepared."""
    path = None  # TFDS's default
    if config.data_dir is not None:
        path = parse_folder(config.data_dir, "data.data_dir")
    folder = f"{path or 'the default data_dir'}/mnist_rows/{config.name}"
    with prefix_errors(folder, PREPARE_HINT, RunError):
        return MnistRows(config=config.name, data_dir=path, file_format="array_record")


def _read_split(builder: MnistRows, split: str) -> Examples:
    """Reads a prepared split; ArrayRecord detects damaged blocks by their checksums."""
    source = builder.as_data_source(split)
    blocks = source.__getitems__(range(len(source)))
    images = np.concatenate([block["images"] for block in blocks])
    labels = np.concatenate([block["labels"] for block in blocks])
    return Examples(images, labels=labels.astype(np.int32))


def _announce_downloads(builder: MnistRows, manual_dir: str | None) -> None:
    """Logs that missing files will be downloaded, and checks that the host responds."""
    missing_files = list(FILES)
    if manual_dir is not None:
        folder = Path(manual_dir)
        if not folder.is_dir():
            raise UserError(
                f"data.manual_dir: {folder} is not a folder; set it to the folder that "
                "contains the files"
            )
        missing_files = [name for name in FILES if not (folder / name).exists()]
    if not missing_files:
        return
    name = builder.builder_config.name
    base = URLS[name]
    try:
        requests.head(base + missing_files[0], timeout=TIMEOUT).raise_for_status()
    except requests.RequestException as error:
        raise MissingDataError(
            f"data.name: {name} is not prepared in {builder.data_dir}, and {base} does "
            f"not respond; download {', '.join(missing_files)} from there into a "
            "folder, and set data.manual_dir to it; --config=embedded needs no download"
        ) from error
    _logger.warning(f"downloading {name} from {base} into {builder.data_dir}")


def _prepare(builder: MnistRows, manual_dir: str | None) -> None:
    """Prepares a data set; downloads the files that `manual_dir` does not contain."""
    _announce_downloads(builder, manual_dir)
    folder = Path(builder.data_dir).parent
    folder.mkdir(parents=True, exist_ok=True)
    download_config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        force_checksums_validation=True,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
    with (
        prefix_errors("data.name", "download the files again"),
        # Other programs may be downloading to TFDS's default folder.
        tempfile.TemporaryDirectory(dir=folder) as downloads,
        contextlib.redirect_stdout(io.StringIO()),  # TFDS prints its progress
        # Finally, TFDS renames its temporary folder. This fails if another process has
        # prepared the same data set in the meantime.
        contextlib.suppress(FileExistsError),
    ):
        builder.download_and_prepare(
            download_dir=downloads, download_config=download_config
        )
