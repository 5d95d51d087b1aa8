"""Prepares TFDS data sets; a failure is one line that names the remedy."""

import contextlib
import fcntl
import hashlib
import io
import itertools
import shutil
import threading
import urllib.parse
from pathlib import Path

import requests
import tensorflow_datasets as tfds  # noqa: TID251
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError  # noqa: TID251
from tensorflow_datasets.core.download.resource import get_dl_fname  # noqa: TID251

from rnnmnist.config.paths import expand, open_folder, parse_folder
from rnnmnist.config.schema import DataConfig
from rnnmnist.data.images.builder import FILES, MnistRows
from rnnmnist.errors import RunError, UserError, as_run_error, first_line

# TFDS itself takes minutes to report a missing network.
NETWORK_SECONDS = 6.0


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
