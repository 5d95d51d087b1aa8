"""Folders of exports: each is written as a whole, with a certificate, or not at all."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rnnmnist.config.schema import Config
from rnnmnist.errors import RunError, UserError
from rnnmnist.exporting.certificate import (
    CERTIFICATE,
    Certificate,
    certify,
    find_changes,
)
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source


def check_formats(names: Sequence[str]) -> None:
    """Checks that the packages of formats are installed.

    Raises:
        UserError: if one is not.
    """
    missing = [
        package
        for name in names
        for package in FORMATS[name].packages
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise UserError(
            f"--format: {' and '.join(missing)} must be installed for it: "
            f"pip install {' '.join(missing)}"
        )


def check_output(folder: Path, names: Sequence[str], force: bool) -> None:
    """Checks that nothing is overwritten unless `force` is set.

    Raises:
        UserError: if an export exists.
    """
    existing = [str(folder / name) for name in names if (folder / name).exists()]
    if existing and not force:
        raise UserError(
            f"--output: {existing[0]} exists; name another folder, or replace it with "
            "--force"
        )


def supports(name: str, config: Config) -> bool:
    """Whether a format supports the recurrence of a configuration."""
    cells = FORMATS[name].cells
    return cells is None or config.model.cell in cells


def write(source: Source, name: str, folder: Path) -> Certificate:
    """Writes an export with its certificate, and replaces an existing one.

    Args:
        source: the network.
        name: of the format.
        folder: gets a folder of that name.

    Raises:
        UserError: if the folder cannot be written.
        RunError: if the export is not certified.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
            new = Path(temporary, name)
            new.mkdir()
            FORMATS[name].write(source, new)
            script = Path(__file__).with_name(f"predict_{name}.py")
            shutil.copyfile(script, new / "predict.py")
            certificate = certify(source, name, new)
            content = json.dumps(certificate.to_dict(), indent=1) + "\n"
            (new / CERTIFICATE).write_text(content)
            if (folder / name).exists():
                (folder / name).rename(Path(temporary, "old"))
            new.rename(folder / name)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be written: {error}") from error
    return certificate


def verify(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Repeats the certificates of all exports in a folder.

    Yields:
        The name of each format, and what has changed, one line each.

    Raises:
        UserError: if the folder has no export, or its run or data do not exist.
        RunError: if an export cannot be run, or its certificate is damaged.
    """
    found = [name for name in FORMATS if (folder / name / CERTIFICATE).is_file()]
    if not found:
        raise UserError(
            f"--verify: {folder} has no {' or '.join(FORMATS)} folder with a "
            f"{CERTIFICATE}; name the --output of an export"
        )
    check_formats(found)
    for name in found:
        certificate = Certificate.read(folder / name / CERTIFICATE)
        source = Source.load(
            Path(certificate.workdir), str(certificate.step), certificate.data_paths
        )
        try:
            yield name, find_changes(certificate, source, folder / name)
        except OSError as error:
            raise RunError(f"--verify: {folder} cannot be read: {error}") from error
