"""Data sets: the builder, its splits, and damaged files."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import itertools
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Once, random_examples

from rnnmnist.config.schema import Config, DataConfig
from rnnmnist.data import datasets, images
from rnnmnist.data.examples import SPLITS, Examples
from rnnmnist.errors import RunError, UserError


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small files in the originals' format, for tests to copy."""
    folder = tmp_path_factory.mktemp("originals")
    for split, count in (("train", 5100), ("test", 130)):
        examples = random_examples(count, seed=count)
        arrays = (examples.stored, examples.labels.astype(np.uint8))
        for name, array in zip(images.FILES[split], arrays, strict=True):
            header = (
                bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            )
            (folder / name).write_bytes(gzip.compress(header + array.tobytes(), 1))
    return folder


@pytest.fixture
def small_originals(
    small_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of those files, with their checksums in the builder."""
    folder = shutil.copytree(small_files, tmp_path / "originals")
    infos = dict(images.MnistRows.url_infos)
    for path in folder.iterdir():
        url = images.URLS["mnist"] + path.name
        infos[url] = type(infos[url])(
            size=path.stat().st_size,
            checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
            filename=path.name,
        )
    monkeypatch.setattr(images.MnistRows, "url_infos", infos)
    return folder


@pytest.fixture
def prepared(once: Once, small: Config, tmp_path: Path) -> DataConfig:
    """The embedded images, prepared in a folder to damage."""

    def at(folder: Path) -> DataConfig:
        return dataclasses.replace(small.data, data_dir=str(folder))

    def prepare(folder: Path) -> None:
        datasets.load(at(folder))

    whole = once("prepared", prepare)
    return at(shutil.copytree(whole, tmp_path / "prepared"))


def files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if ".config" not in path.parts)


def test_the_embedded_splits_are_balanced_and_disjoint(small: Config) -> None:
    task, splits = datasets.load(small.data)
    sizes = {"train": 400, "validation": 50, "test": 50}
    assert tuple(splits) == SPLITS
    for split, own in splits.items():
        np.testing.assert_array_equal(np.bincount(own.labels), [sizes[split]] * 10)
    assert task == datasets.image_task(small.data)
    assert vars(task.examples) == {s: len(splits[s].labels) for s in SPLITS}
    found = [i.tobytes() for split in SPLITS for i in splits[split].stored]
    assert len(set(found)) == len(found) == 5000


@pytest.mark.parametrize("name", datasets.IMAGE_SETS)
def test_the_task_of_an_image_set_is_known_without_its_files(name: Any) -> None:
    task = datasets.image_task(DataConfig(name=name, data_dir="/nowhere"))
    assert (task.name, task.time_steps, task.features) == (name, 28, 28)
    assert task.image_shape == (28, 28)
    assert len(task.classes) == 10
    assert sum(vars(task.examples).values()) == (5_000 if name == "mnist5k" else 70_000)
    assert task.noun == "images"
    assert (task.sha256, task.mean, task.std) == (None, None, None)


def test_a_manual_dir_gives_the_tutorials_splits_in_the_original_order(
    small_originals: Path, tmp_path: Path
) -> None:
    config = DataConfig(data_dir=str(tmp_path / "d"), manual_dir=str(small_originals))
    train, test = random_examples(5100, 5100), random_examples(130, 130)
    expected = {
        "validation": Examples(train.stored[:5000], labels=train.labels[:5000]),
        "train": Examples(train.stored[5000:], labels=train.labels[5000:]),
        "test": test,
    }
    assert_equal(datasets.load(config).splits, expected)


def assert_equal(found: dict[str, Examples], expected: dict[str, Examples]) -> None:
    """Compares the images and the labels of every split."""
    for split in SPLITS:
        a, b = found[split], expected[split]
        np.testing.assert_array_equal(a.take(slice(None)), b.stored, strict=True)
        np.testing.assert_array_equal(a.labels, b.labels, strict=True)


@pytest.mark.parametrize("content", [b"", b"another file"])
def test_a_wrong_file_is_named_with_its_checksum_and_leaves_no_files(
    small_originals: Path, tmp_path: Path, content: bytes
) -> None:
    path = small_originals / images.FILES["test"][1]
    path.write_bytes(content)
    config = DataConfig(data_dir=str(tmp_path / "d"), manual_dir=str(small_originals))
    with pytest.raises(UserError) as error:
        datasets.load(config)
    assert str(path) in str(error.value)
    assert hashlib.sha256(content).hexdigest() in str(error.value)
    assert str(error.value).isprintable()
    assert files(tmp_path / "d") == []


def test_without_files_and_network_the_missing_ones_are_named(
    small_originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (small_originals / "t10k-labels-idx1-ubyte.gz").unlink()
    (small_originals / "train-images-idx3-ubyte.gz").unlink()
    config = DataConfig(data_dir=str(tmp_path / "d"), manual_dir=str(small_originals))
    with pytest.raises(UserError) as error:
        datasets.load(config)
    assert "download train-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz from" in str(
        error.value
    )
    assert "configs/embedded.py" in str(error.value)
    assert files(tmp_path / "d") == []


def test_the_progress_of_downloading_and_writing_is_printed(
    small_originals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From a server of this process."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(small_originals))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        infos = images.MnistRows.url_infos
        for url, info in list(infos.items()):
            infos[url.replace(images.URLS["mnist"], f"http://{host}/")] = info
        monkeypatch.setitem(images.URLS, "mnist", f"http://{host}/")
        datasets.load(DataConfig(data_dir=str(tmp_path / "d")))
        server.shutdown()
    assert capsys.readouterr().out.splitlines() == [
        f"preparing mnist in {tmp_path / 'd' / 'mnist_rows' / 'mnist' / '3.0.0'}, "
        f"downloading from {host}"
    ]


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_every_original_has_a_checksum_under_its_own_host(name: str) -> None:
    for file in itertools.chain(*images.FILES.values()):
        info = images.MnistRows.url_infos[images.URLS[name] + file]
        assert len(info.checksum) == 64
        assert info.filename == file
        assert int(info.size) > 4000


def test_no_flipped_byte_of_prepared_data_is_read(
    prepared: DataConfig, tmp_path: Path
) -> None:
    """array_record has checksums of its own; some bytes are of no record."""
    first = datasets.load(prepared).splits
    (path,) = tmp_path.rglob("*validation.array_record*")
    content = path.read_bytes()
    refused = 0
    for position in np.linspace(0, len(content) - 1, 40).astype(int):
        flipped = bytes([content[position] ^ 1])
        path.write_bytes(content[:position] + flipped + content[position + 1 :])
        try:
            found = datasets.load(prepared).splits
        except RunError as error:
            assert "cannot be read" in str(error)
            refused += 1
        else:
            assert_equal(found, first)
    assert refused >= 10


def test_a_folder_of_an_older_version_is_prepared_again(
    prepared: DataConfig, tmp_path: Path
) -> None:
    first = datasets.load(prepared).splits
    (info,) = tmp_path.rglob("dataset_info.json")
    info.parent.rename(info.parent.with_name("1.0.0"))
    assert_equal(datasets.load(prepared).splits, first)
    assert info.exists()


@pytest.mark.parametrize("pattern", ["*test.array_record*", "dataset_info.json"])
def test_damaged_prepared_data_are_one_line(
    prepared: DataConfig, tmp_path: Path, pattern: str
) -> None:
    (path,) = tmp_path.rglob(pattern)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RunError, match=r"cannot be read.*delete"):
        datasets.load(prepared)


@pytest.mark.slow
def test_two_first_starts_prepare_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "from rnnmnist.data import datasets\n"
        "from rnnmnist.config.schema import DataConfig\n"
        "datasets.load(DataConfig(name='mnist5k', data_dir=sys.argv[1]))\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "new")]
    processes = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(printed).count("preparing mnist5k") == 1


def test_a_data_dir_that_is_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UserError, match=rf"data\.data_dir: {path} is a file"):
        datasets.load(DataConfig(name="mnist5k", data_dir=str(path)))


@pytest.mark.slow
def test_the_embedded_images_are_the_first_500_of_each_class_of_mnist(
    originals: Path,
) -> None:
    files = (originals / "mnist" / name for name in images.FILES["train"])
    all_images, labels = map(images.read_idx, files)
    with np.load(datasets.EMBEDDED) as file:
        for digit in range(10):
            mine = file["images"][file["labels"] == digit]
            np.testing.assert_array_equal(mine, all_images[labels == digit][:500])
