"""A prepared TFDS builder, or one line that says what to do to get one."""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.resource import get_dl_fname

from rnnmnist.config.schema import DataConfig
from rnnmnist.data.builder import FILES, MnistRows
from rnnmnist.errors import RunError, UserError, first_line

# TFDS itself takes minutes to say that there is no network.
NETWORK_SECONDS = 6.0


def prepared_builder(config: DataConfig) -> MnistRows:
    """Prepares a data set through TFDS unless that was done before.

    Raises:
        UserError: with no data and no network, for a file that is not the
            original, or for a folder that cannot be used. Nothing half-prepared
            stays.
    """
    tfds.disable_progress_bar()
    data_dir = _absolute(config.data_dir)
    manual_dir = _absolute(config.manual_dir)
    try:
        builder = _builder(config.name, data_dir)
        if not builder.is_prepared():
            with _alone_in(Path(builder._data_dir_root)):  # seeds may start together
                builder = _builder(config.name, data_dir)
                if not builder.is_prepared():
                    _prepare(builder, manual_dir)
    except OSError as error:
        raise UserError(
            f"data.data_dir: cannot prepare {config.name}: {error}; name a folder that "
            "can be written"
        ) from error
    return builder


class Availability(NamedTuple):
    """How a data set is to be had."""

    prepared: bool
    folder: Path  # where it is, or would be
    text: str  # the same, in words


def availability(config: DataConfig, *, check: bool) -> Availability:
    """Says how a run would come by a data set, and prepares and creates nothing.

    Args:
        config: of the data set.
        check: whether the original files are looked at, and their host asked for
            an answer where some are missing, in `NETWORK_SECONDS` at most.

    Raises:
        UserError: if asked to look, when a run could not have it, as
            `prepared_builder` would.
        RunError: when what was prepared is damaged.
    """
    manual_dir = _absolute(config.manual_dir)
    try:
        builder = _builder(config.name, _absolute(config.data_dir))
        prepared = builder.is_prepared()
    except OSError as error:
        raise UserError(f"data.data_dir: cannot read {config.name}: {error}") from error
    folder = Path(builder.data_dir)
    if prepared:
        return Availability(True, folder, f"prepared in {folder}")
    missing = _missing(builder, manual_dir)
    if check:
        _check_is_folder(manual_dir)
        if wrong := _unoriginal(builder, manual_dir):
            raise UserError(wrong)
        _check_network(builder, manual_dir)
    if builder.builder_config.url is None:
        source = "from this package"
    elif missing:
        host = urllib.parse.urlparse(missing[0]).netloc
        source = f"from {host}{', which answers' if check else ''}"
    else:
        source = "from files that are here"
    return Availability(False, folder, f"not prepared; a run takes it {source}")


def _builder(name: str, data_dir: Path | None) -> MnistRows:
    place = None if data_dir is None else str(data_dir)
    try:
        return MnistRows(config=name, data_dir=place, file_format="array_record")
    except OSError:
        raise
    except Exception as error:  # TFDS reads what was prepared, which may be damaged
        raise RunError(
            f"what is prepared of {name} in {place or 'the default data_dir'} is "
            f"damaged ({first_line(error)}); delete its folder in mnist_rows"
        ) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds other processes back from preparing in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # without locks, each prepares for itself
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare(builder: MnistRows, manual_dir: Path | None) -> None:
    _check_is_folder(manual_dir)
    _check_network(builder, manual_dir)
    print(f"preparing {builder.builder_config.name} in {builder.data_dir}", flush=True)
    download_config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        force_checksums_validation=True,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints as it works
            builder.download_and_prepare(download_config=download_config)
    except NonMatchingChecksumError as error:
        raise UserError(_wrong_file(builder, manual_dir, str(error))) from error
    except (tfds.download.DownloadError, requests.RequestException) as error:
        raise UserError(_no_files(builder, manual_dir, str(error))) from error
    finally:
        for unfinished in _downloads(builder).rglob("*.tmp.*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _check_is_folder(manual_dir: Path | None) -> None:
    if manual_dir is not None and not manual_dir.is_dir():
        raise UserError(f"data.manual_dir: {manual_dir} is not a folder")


def _absolute(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser().absolute()


def _downloads(builder: MnistRows) -> Path:
    return Path(builder._data_dir_root) / "downloads"  # where TFDS keeps them


def _urls(builder: MnistRows) -> list[str]:
    host = builder.builder_config.url
    return (
        []
        if host is None
        else [host + name for part in FILES.values() for name in part]
    )


def _missing(builder: MnistRows, manual_dir: Path | None) -> list[str]:
    """The addresses of the files that have to be downloaded."""
    missing = []
    for url in _urls(builder):
        by_hand = manual_dir is not None and (manual_dir / _file_name(url)).exists()
        name = get_dl_fname(url, builder.url_infos[url].checksum)
        if not by_hand and not any(_downloads(builder).rglob(name)):
            missing.append(url)
    return missing


def _check_network(builder: MnistRows, manual_dir: Path | None) -> None:
    """Asks the files' host for an answer if a file has to come from there.

    Raises:
        UserError: when there is no answer in time.
    """
    missing = _missing(builder, manual_dir)
    if not missing:
        return
    answers: list[bool] = []

    def send() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(missing[0], timeout=NETWORK_SECONDS).ok)

    # A thread, since a look-up of the host's name has no time limit of its own.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if not any(answers):
        host = urllib.parse.urlparse(missing[0]).netloc
        raise UserError(_no_files(builder, manual_dir, f"no answer from {host}"))


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _no_files(builder: MnistRows, manual_dir: Path | None, why: str) -> str:
    files = [_file_name(url) for url in _urls(builder)]
    if manual_dir is not None:
        files = [name for name in files if not (manual_dir / name).exists()]
    where = (
        f"into {manual_dir}, which data.manual_dir names"
        if manual_dir is not None
        else "into a folder and name it with --config.data.manual_dir=FOLDER"
    )
    return (
        f"data.name: {builder.builder_config.name} is not prepared in "
        f"{builder.data_dir} and cannot be downloaded ({why}): put "
        f"{', '.join(files)} from {builder.builder_config.url} {where}; "
        "configs/embedded.py needs no files"
    )


def _wrong_file(builder: MnistRows, manual_dir: Path | None, why: str) -> str:
    return _unoriginal(builder, manual_dir) or (
        f"data.name: a download is not the original: {why.split('To debug')[0]}"
    )


def _unoriginal(builder: MnistRows, manual_dir: Path | None) -> str | None:
    """Says which file in a folder is not the original, with both checksums."""
    for url in _urls(builder):
        path = None if manual_dir is None else manual_dir / _file_name(url)
        expected = builder.url_infos[url]
        if path is not None and path.exists():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != expected.checksum:
                return (
                    f"data.manual_dir: {path} has {path.stat().st_size} bytes and "
                    f"SHA-256 {found}, but the original has {int(expected.size)} "
                    f"bytes and SHA-256 {expected.checksum}; fetch it again from {url}"
                )
    return None
