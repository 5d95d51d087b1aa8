"""Folders of exports: each is written as a whole, with a certificate, or not at all.

A certificate records that an export and its source classify every example alike.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.errors import RunError, UserError
from rnnmnist.exporting import runner
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source
from rnnmnist.runs.checksums import array_checksums, json_checksum
from rnnmnist.runs.files import write_folder, write_json

CERTIFICATE = "certificate.json"
# Of logits, relative to the largest one; sums of float32 in another order differ less.
MAX_DIFFERENCE = 1e-4
# Fields that can differ when a certificate is repeated.
VARIABLE = ("max_abs_difference", "versions")


class Difference(msgspec.Struct, frozen=True):
    """An example for which an export predicts another class than its source."""

    example: int  # its index in the split, from 0
    source: int  # class
    export: int


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of an export with its source, as in `certificate.json`."""

    format: str  # a name in `FORMATS`
    artefact_sha256: str
    files: dict[str, str]  # SHA-256 of every file of the export, by name
    workdir: str  # of the run, an absolute path
    step: int
    params_sha256: str  # as in result files
    data_paths: dict[str, str | None]  # with which the data were loaded
    dataset: str
    split: str  # `test`, or `validation` if there is no test split
    examples_sha256: str  # of the inputs and labels
    examples: int
    correct: int  # classified correctly by the export
    differing: int  # the number of `differences`
    differences: list[Difference]
    max_abs_difference: float  # of the logits
    versions: dict[str, str]  # of the libraries

    def describe(self) -> str:
        """Describes the comparison in one line."""
        differences = "".join(
            f"; example {one.example}: {one.export}, not {one.source}"
            for one in self.differences[:5]
        )
        return (
            f"{self.examples - self.differing:,} of {self.examples:,} predictions are "
            f"equal{differences}; logits differ by at most "
            f"{self.max_abs_difference:.1e}"
        )


def certify(source: Source, folder: Path) -> Certificate:
    """Compares an export, in a folder named like its format, with its source."""
    logits = run(folder, source.inputs)
    largest = float(np.abs(logits - source.logits).max())
    if not largest <= MAX_DIFFERENCE * max(1, np.abs(source.logits).max()):  # nor NaN
        raise RunError(
            f"the {folder.name} export is not the network at step "
            f"{source.network.checkpoint_step} of {source.network.workdir}: logits "
            f"differ by up to {largest:.3g}"
        )
    own = source.logits.argmax(-1)
    predicted = logits.argmax(-1)
    differences = [
        Difference(int(index), int(own[index]), int(predicted[index]))
        for index in np.flatnonzero(own != predicted)
    ]
    files = checksums(folder)
    export = FORMATS[folder.name]
    versions = {"python": platform.python_version()}
    for package in ("jax", "flax", *export.packages):
        versions[package] = importlib.import_module(package).__version__
    return Certificate(
        format=folder.name,
        artefact_sha256=files[export.artefact],
        files=files,
        workdir=str(source.network.workdir),
        step=source.network.checkpoint_step,
        params_sha256=source.params_sha256,
        data_paths=dict(source.data_paths),
        dataset=source.dataset,
        split=source.split,
        examples_sha256=hash_examples(source),
        examples=len(logits),
        correct=int((predicted == source.labels).sum()),
        differing=len(differences),
        differences=differences,
        max_abs_difference=largest,
        versions=versions,
    )


def run(folder: Path, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Returns the logits of an export, float32 [n, classes].

    It runs in a new process, which imports nothing of this package.
    """
    with tempfile.TemporaryDirectory() as temporary:
        examples = Path(temporary, "in.npz")
        outputs = Path(temporary, "out.npy")
        np.savez(examples, *inputs)
        arguments = [script(folder.name), folder, examples, outputs]
        process = subprocess.run(
            [sys.executable, "-P", runner.__file__, *arguments],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if process.returncode:
            last = process.stdout.strip().splitlines()[-1:]
            raise RunError(
                f"the {folder.name} export failed with exit code {process.returncode}: "
                f"{' '.join(last)}"
            )
        logits: np.ndarray = np.load(outputs)
        return logits


def script(format_name: str) -> Path:
    """Returns the `predict.py` of a format."""
    return Path(__file__).with_name(f"predict_{format_name}.py")


def find_changes(saved: Certificate, source: Source, folder: Path) -> list[str]:
    """Repeats a certificate and returns what has changed, one line each.

    The export is not run if one of its files, the checkpoint or the data have changed.
    """
    files = checksums(folder)
    changes = [
        f"{name} has changed"
        for name in sorted(saved.files.keys() | files.keys())
        if saved.files.get(name) != files.get(name)
    ]
    if saved.params_sha256 != source.params_sha256:
        changes.append(f"the parameters in {source.network.workdir} have changed")
    if saved.examples_sha256 != hash_examples(source):
        changes.append(f"the {source.split} examples of {source.dataset} have changed")
    if changes:
        return changes
    repeated = msgspec.to_builtins(certify(source, folder))
    return [
        f"{name} is {repeated[name]}, not {value}"
        for name, value in msgspec.to_builtins(saved).items()
        if name not in VARIABLE and repeated[name] != value
    ]


def checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of an export but its certificate, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != CERTIFICATE
    }


def hash_examples(source: Source) -> str:
    """Returns the SHA-256 of the inputs and labels, with their types and shapes."""
    return json_checksum(array_checksums((source.inputs, source.labels)))


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


def write(source: Source, format_name: str, folder: Path) -> Certificate:
    """Writes an export with its certificate to a folder of the format's name.

    An existing one is replaced.
    """
    with write_folder(folder / format_name) as new:
        FORMATS[format_name].write(source, new)
        shutil.copyfile(script(format_name), new / "predict.py")
        certificate = certify(source, new)
        write_json(new / CERTIFICATE, certificate)
    return certificate


def verify(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Repeats the certificates of all exports in a folder.

    Yields the name of each format, and what has changed, one line each.
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
            sources[key] = Source.load(
                Path(saved.workdir), str(saved.step), saved.data_paths
            )
        yield format_name, find_changes(saved, sources[key], folder / format_name)
