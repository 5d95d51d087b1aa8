"""Data sets: the builder, its splits, and damaged files."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
import trainer
from support import disconnect, random_examples

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets, image_datasets, images
from rnnmnist.data.examples import SPLITS, Examples
from rnnmnist.errors import RunError, UserError

TRAIN = random_examples(5100, seed=1)
TEST = random_examples(130, seed=2)
# As in the tutorial of 2016, the first 5,000 training images are for validation.
SPLITS_OF_ORIGINALS = {
    "validation": Examples(TRAIN.stored[:5000], labels=TRAIN.labels[:5000]),
    "train": Examples(TRAIN.stored[5000:], labels=TRAIN.labels[5000:]),
    "test": TEST,
}


@pytest.fixture
def originals_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Small files in the format of the originals, with known checksums."""
    folder = tmp_path / "originals"
    folder.mkdir()
    infos = dict(images.MnistRows.url_infos)
    arrays = (TRAIN.stored, TRAIN.labels, TEST.stored, TEST.labels)
    for name, array in zip(images.FILES, arrays, strict=True):
        shape = np.array(array.shape, ">i4").tobytes()
        header = bytes([0, 0, 8, array.ndim]) + shape
        content = gzip.compress(header + array.astype(np.uint8).tobytes(), 0)
        (folder / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        url = images.URLS["mnist"] + name
        infos[url] = type(infos[url])(len(content), sha256, name)
    monkeypatch.setattr(images.MnistRows, "url_infos", infos)
    return DataConfig(data_dir=str(tmp_path / "prepared"), manual_dir=str(folder))


@pytest.fixture
def prepared(originals_config: DataConfig) -> DataConfig:
    """The same files in prepared form, which a test can damage."""
    datasets.load(Config(data=originals_config))
    return originals_config


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if ".config" not in path.parts)


def test_the_embedded_splits_are_balanced_disjoint_and_complete() -> None:
    config = DataConfig(name="mnist5k")
    task, splits = datasets.load(Config(data=config))
    sizes = {"train": 400, "validation": 50, "test": 50}
    assert tuple(splits) == SPLITS
    for split, own in splits.items():
        np.testing.assert_array_equal(np.bincount(own.labels), [sizes[split]] * 10)
    assert task == image_datasets.image_task(config)
    assert task.examples == {s: len(splits[s].labels) for s in SPLITS}
    found = [image.tobytes() for split in SPLITS for image in splits[split].stored]
    assert len(set(found)) == 5000
    digest = hashlib.sha256()  # every version of NumPy gives the same
    for pixels, labels in image_datasets.embedded_images().values():
        digest.update(pixels.tobytes() + labels.tobytes())
    assert digest.hexdigest() == task.sha256


def assert_equal(found: dict[str, Examples], expected: dict[str, Examples]) -> None:
    """Compares the images and labels of every split."""
    for split in SPLITS:
        a, b = found[split], expected[split]
        np.testing.assert_array_equal(a.take(slice(None)), b.stored, strict=True)
        np.testing.assert_array_equal(a.labels, b.labels, strict=True)


def test_a_manual_dir_gives_the_tutorials_splits_in_the_original_order(
    originals_config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """TFDS logs nothing about the missing prepared data."""
    assert_equal(
        datasets.load(Config(data=originals_config)).splits, SPLITS_OF_ORIGINALS
    )
    assert not caplog.records


def test_a_wrong_file_is_named_and_leaves_no_files(
    originals_config: DataConfig, tmp_path: Path
) -> None:
    path = tmp_path / "originals" / images.FILES[-1]
    path.write_bytes(b"another file")
    with pytest.raises(UserError) as error:
        datasets.load(Config(data=originals_config))
    assert str(path) in str(error.value)
    assert "checksum" in str(error.value)
    assert files(tmp_path / "prepared") == []


def test_without_a_network_missing_files_are_named(
    originals_config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disconnect(monkeypatch)
    missing = ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    for name in missing:
        (tmp_path / "originals" / name).unlink()
    with pytest.raises(UserError) as error:
        datasets.load(Config(data=originals_config))
    assert f"download {', '.join(missing)} from there into" in str(error.value)
    assert files(tmp_path / "prepared") == []


def test_a_download_logs_the_host(
    originals_config: DataConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """The server runs in this process."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=originals_config.manual_dir
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        infos = images.MnistRows.url_infos
        for name in images.FILES:
            infos[f"http://{host}/{name}"] = infos[images.URLS["mnist"] + name]
        monkeypatch.setitem(images.URLS, "mnist", f"http://{host}/")
        config = dataclasses.replace(originals_config, manual_dir=None)
        assert_equal(datasets.load(Config(data=config)).splits, SPLITS_OF_ORIGINALS)
        server.shutdown()
    assert capsys.readouterr().out == ""
    (line,) = (text for text in caplog.messages if text.startswith("downloading"))
    assert line.startswith(f"downloading mnist from http://{host}/ into {tmp_path}")
    assert files(tmp_path / "prepared" / "downloads") == []


def test_damaged_metadata_of_prepared_data_cause_a_one_line_error(
    prepared: DataConfig, tmp_path: Path
) -> None:
    (path,) = tmp_path.rglob("dataset_info.json")
    path.write_text("{")
    with pytest.raises(RunError, match=r"^[^\n]* cannot be read \([^\n]*delete[^\n]*$"):
        datasets.load(Config(data=prepared))


@pytest.mark.slow
def test_two_processes_can_prepare_a_data_set_at_the_same_time(
    environment: dict[str, str], originals: Path, tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "from rnnmnist.config.schema import Config, DataConfig\n"
        "from rnnmnist.data import datasets\n"
        "_, data_dir, manual_dir = sys.argv\n"
        "data = DataConfig(data_dir=data_dir, manual_dir=manual_dir)\n"
        "print(len(datasets.load(Config(data=data)).splits['train']))\n"
    )
    argv = "-c", program, tmp_path / "new", originals / "mnist"
    processes = [trainer.popen(environment, *argv) for _ in range(2)]
    codes, printed, _ = zip(*trainer.outcomes(processes), strict=True)
    assert codes == (0, 0)
    assert printed == ("55000\n", "55000\n")
    assert not [*tmp_path.rglob("*incomplete*")]
