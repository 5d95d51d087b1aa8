"""Prepares TFDS data sets; a failure is one line that names the remedy."""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests
import tensorflow_datasets as tfds  # noqa: TID251
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError  # noqa: TID251
from tensorflow_datasets.core.download.resource import get_dl_fname  # noqa: TID251

from rnnmnist.config.paths import expand
from rnnmnist.config.schema import DataConfig
from rnnmnist.data.builder import FILES, MnistRows
from rnnmnist.errors import RunError, UserError, as_run_error, first_line

# TFDS itself takes minutes to report a missing network.
NETWORK_SECONDS = 6.0


def prepared_builder(config: DataConfig) -> MnistRows:
    """Returns the builder of a data set, which is prepared if it is not yet."""
    tfds.disable_progress_bar()
    builder = _make_builder(config)
    if not builder.is_prepared():
        with _exclusive_lock(Path(builder._data_dir_root)):
            builder = _make_builder(config)
            if not builder.is_prepared():  # by a process that held the lock
                _prepare(builder, _expand(config.manual_dir))
    return builder


class Availability(NamedTuple):
    """Whether a data set is prepared, and where it comes from otherwise."""

    prepared: bool
    folder: Path  # of the prepared data, whether they exist or not
    text: str  # one line for the user


def availability(config: DataConfig) -> Availability:
    """Reports how a run would obtain a data set, without preparing or creating it.

    The files in `manual_dir` are checked and, if files have to be downloaded, whether
    their host responds within `NETWORK_SECONDS`.
    """
    manual_dir = _expand(config.manual_dir)
    builder = _make_builder(config)
    folder = Path(builder.data_dir)
    if builder.is_prepared():
        return Availability(True, folder, f"prepared in {folder}")
    missing = _missing_urls(builder, manual_dir)
    _check_manual_files(builder, manual_dir)
    _check_network(builder, manual_dir)
    if builder.builder_config.url is None:
        source = "from this package"
    elif missing:
        host = urllib.parse.urlparse(missing[0]).netloc
        source = f"from {host} (reachable)"
    else:
        source = "from local files"
    return Availability(False, folder, f"not prepared; a run takes it {source}")


def _make_builder(config: DataConfig) -> MnistRows:
    path = _expand(config.data_dir)
    try:
        return MnistRows(config=config.name, data_dir=path, file_format="array_record")
    except Exception as error:  # TFDS reads prepared data, which may be damaged
        if as_run_error(error):
            raise
        raise RunError(
            f"the prepared data of {config.name} in {path or 'the default data_dir'} "
            f"are damaged ({first_line(error)}); delete their folder in mnist_rows"
        ) from error


@contextlib.contextmanager
def _exclusive_lock(folder: Path) -> Iterator[None]:
    """Prevents other processes from preparing data in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # without locks, each process prepares
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare(builder: MnistRows, manual_dir: Path | None) -> None:
    _check_manual_files(builder, manual_dir)
    _check_network(builder, manual_dir)
    print(f"preparing {builder.builder_config.name} in {builder.data_dir}", flush=True)
    if missing := _missing_urls(builder, manual_dir):
        size = sum(builder.url_infos[url].size for url in missing) / 1e6
        host = urllib.parse.urlparse(missing[0]).netloc
        print(
            f"downloading {len(missing)} files, {size:.1f} MB, from {host}", flush=True
        )
    builder.progress = sys.stdout  # which is redirected below
    download_config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
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
        raise _unavailable(builder, manual_dir, str(error)) from error
    finally:
        for unfinished in _downloads(builder).rglob("*.tmp.*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _expand(folder: str | None) -> Path | None:
    return None if folder is None else expand(folder)


def _downloads(builder: MnistRows) -> Path:
    return Path(builder._data_dir_root) / "downloads"


def _urls(builder: MnistRows) -> dict[str, str]:
    """Returns the URL of each original file, by its name."""
    base = builder.builder_config.url
    if base is None:
        return {}
    return {name: base + name for names in FILES.values() for name in names}


def _has(manual_dir: Path | None, name: str) -> bool:
    return manual_dir is not None and (manual_dir / name).exists()


def _missing_urls(builder: MnistRows, manual_dir: Path | None) -> list[str]:
    """Returns the URLs of the files that have to be downloaded."""
    missing = []
    for name, url in _urls(builder).items():
        download = get_dl_fname(url, builder.url_infos[url].checksum)
        if not _has(manual_dir, name) and not any(_downloads(builder).rglob(download)):
            missing.append(url)
    return missing


def _check_manual_files(builder: MnistRows, manual_dir: Path | None) -> None:
    """Checks that `manual_dir` is a folder, and the checksums of its original files."""
    if manual_dir is None:
        return
    if not manual_dir.is_dir():
        raise UserError(f"data.manual_dir: {manual_dir} is not a folder")
    for name, url in _urls(builder).items():
        if not _has(manual_dir, name):
            continue
        content, expected = (manual_dir / name).read_bytes(), builder.url_infos[url]
        found = hashlib.sha256(content).hexdigest()
        if found != expected.checksum:
            raise UserError(
                f"data.manual_dir: {manual_dir / name} has {len(content)} bytes and "
                f"SHA-256 {found}, but the original has {int(expected.size)} bytes and "
                f"SHA-256 {expected.checksum}; fetch it again from {url}"
            )


def _check_network(builder: MnistRows, manual_dir: Path | None) -> None:
    """Checks that the host of missing files responds."""
    missing = _missing_urls(builder, manual_dir)
    if not missing:
        return
    responses: list[bool] = []

    def send() -> None:
        with contextlib.suppress(requests.RequestException):
            responses.append(requests.head(missing[0], timeout=NETWORK_SECONDS).ok)

    # In a thread, because a DNS lookup has no timeout of its own.
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(NETWORK_SECONDS)
    if not any(responses):
        host = urllib.parse.urlparse(missing[0]).netloc
        raise _unavailable(builder, manual_dir, f"no answer from {host}")


def _unavailable(builder: MnistRows, manual_dir: Path | None, reason: str) -> UserError:
    files = [name for name in _urls(builder) if not _has(manual_dir, name)]
    target = (
        f"into {manual_dir}, the folder of data.manual_dir"
        if manual_dir is not None
        else "into a folder and set data.manual_dir to it"
    )
    return UserError(
        f"data.name: {builder.builder_config.name} is not prepared in "
        f"{builder.data_dir} and cannot be downloaded ({reason}): download "
        f"{', '.join(files)} from {builder.builder_config.url} {target}; "
        "configs/embedded.py needs no files"
    )
