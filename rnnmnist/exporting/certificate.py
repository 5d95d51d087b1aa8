"""Certificates: every example is classified by an export and by its source."""

import hashlib
import importlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from rnnmnist.checkpoints.checksums import array_checksums, json_checksum
from rnnmnist.errors import RunError
from rnnmnist.exporting import runner
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source

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


def certify(source: Source, format_name: str, folder: Path) -> Certificate:
    """Compares an export with its source on every example."""
    inputs, labels = source.inputs, source.labels
    logits = run(format_name, folder, inputs)
    largest = float(np.abs(logits - source.logits).max())
    if not largest <= MAX_DIFFERENCE * max(1, np.abs(source.logits).max()):  # nor NaN
        raise RunError(
            f"the {format_name} export is not the network at step {source.step} of "
            f"{source.workdir}: logits differ by up to {largest:.3g}"
        )
    own, predicted = source.logits.argmax(-1), logits.argmax(-1)
    differences = [
        Difference(int(index), int(own[index]), int(predicted[index]))
        for index in np.flatnonzero(own != predicted)
    ]
    files, export = checksums(folder), FORMATS[format_name]
    versions = {"python": platform.python_version()}
    for package in ("jax", "flax", *export.packages):
        versions[package] = importlib.import_module(package).__version__
    return Certificate(
        format=format_name,
        artefact_sha256=files[export.artefact],
        files=files,
        workdir=str(source.workdir),
        step=source.step,
        params_sha256=source.params_sha256,
        data_paths=dict(source.data_paths),
        dataset=source.dataset,
        split=source.split,
        examples_sha256=hash_examples(source),
        examples=len(labels),
        correct=int((predicted == labels).sum()),
        differing=len(differences),
        differences=differences,
        max_abs_difference=largest,
        versions=versions,
    )


def run(format_name: str, folder: Path, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Runs an export in a new process, which imports nothing of this package.

    Returns:
        The logits, float32 [n, classes].
    """
    with tempfile.TemporaryDirectory() as temporary:
        examples, outputs = (Path(temporary, name) for name in ("in.npz", "out.npy"))
        np.savez(examples, *inputs)
        arguments = [script(format_name), folder, examples, outputs]
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
                f"the {format_name} export failed with exit code {process.returncode}: "
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
        changes.append(f"the parameters in {source.workdir} have changed")
    if saved.examples_sha256 != hash_examples(source):
        changes.append(f"the {source.split} examples of {source.dataset} have changed")
    if changes:
        return changes
    repeated = msgspec.to_builtins(certify(source, folder.name, folder))
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
