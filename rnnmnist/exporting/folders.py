"""Folders of exports: each is written as a whole, with a certificate, or not at all."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.errors import UserError
from rnnmnist.exporting.certificate import (
    CERTIFICATE,
    Certificate,
    certify,
    find_changes,
    script,
)
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source
from rnnmnist.runtime.files import write_json


def check_packages(format_names: Sequence[str]) -> None:
    """Checks that the packages of formats are installed."""
    missing = [
        package
        for format_name in format_names
        for package in FORMATS[format_name].packages
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise UserError(
            f"format: {' and '.join(missing)} must be installed for it: "
            f"pip install {' '.join(missing)}"
        )


def supports(format_name: str, config: Config) -> bool:
    """Whether a format supports the recurrence of a configuration."""
    cells = FORMATS[format_name].cells
    return cells is None or config.model.cell in cells


def write(source: Source, format_name: str, folder: Path) -> Certificate:
    """Writes an export with its certificate, and replaces an existing one.

    Args:
        source: the network.
        format_name: a name in `FORMATS`.
        folder: gets a folder of that name.
    """
    final = folder / format_name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{format_name}-") as name:
        new = Path(name, format_name)
        new.mkdir()
        FORMATS[format_name].write(source, new)
        shutil.copyfile(script(format_name), new / "predict.py")
        certificate = certify(source, format_name, new)
        write_json(new / CERTIFICATE, certificate)
        if final.exists():
            final.rename(Path(name, "old"))
        new.rename(final)
    return certificate


def verify(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Repeats the certificates of all exports in a folder.

    Yields:
        The name of each format, and what has changed, one line each.
    """
    found = [name for name in FORMATS if (folder / name).is_dir()]
    if not found:
        raise UserError(
            f"verify: {folder} has no folder {' or '.join(FORMATS)}; name the "
            "output folder of an export"
        )
    check_packages(found)
    sources: dict[str, Source] = {}
    for format_name in found:
        try:
            content = (folder / format_name / CERTIFICATE).read_bytes()
            saved = msgspec.json.decode(content, type=Certificate)
            if saved.data_paths.keys() - set(DATA_PATHS):
                raise ValueError(f"data_paths must be of {', '.join(DATA_PATHS)}")
        except (OSError, ValueError, RecursionError) as error:
            yield format_name, [f"{CERTIFICATE} is damaged: {error}"]
            continue
        key = f"{saved.workdir} {saved.step} {saved.data_paths}"
        if key not in sources:
            workdir, step = Path(saved.workdir), str(saved.step)
            sources[key] = Source.load(workdir, step, saved.data_paths)
        yield format_name, find_changes(saved, sources[key], folder / format_name)
