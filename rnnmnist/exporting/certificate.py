"""Certificates: every example is classified by an export and by its source."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rnnmnist.errors import RunError
from rnnmnist.exporting import runner
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source
from rnnmnist.runtime.hardware import describe_processor
from rnnmnist.runtime.versions import installed

CERTIFICATE = "certificate.json"
MAX_DIFFERENCE = 1e-3  # of logits; float32 sums in another order stay far below


@dataclasses.dataclass(frozen=True)
class Difference:
    """An example for which an export predicts another class than its source."""

    example: int  # its index in the split, from 0
    source: int  # class
    export: int


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The comparison of an export with its source: the content of `certificate.json`.

    The file also has `differing`, the number of differences.

    Attributes:
        format: a name in `FORMATS`.
        artefact_sha256: of the artefact.
        files: the SHA-256 of every file of the export, by name.
        workdir: of the run, an absolute path.
        step: of the checkpoint.
        params_sha256: of its parameters, as in result files.
        data_paths: the overrides with which the data were loaded.
        dataset: the name of the task.
        split: `test`, or `validation` if there is no test split.
        examples_sha256: of the inputs and labels.
        examples: their number.
        correct: the number of those that the export classifies correctly.
        differences: the examples for which it predicts another class.
        max_abs_difference: of the logits.
        examples_per_second: by batch size, of the runtime and of this package.
        hardware: the processor on which they were measured.
        versions: of the libraries.
    """

    format: str
    artefact_sha256: str
    files: dict[str, str]
    workdir: str
    step: int
    params_sha256: str
    data_paths: dict[str, str | None]
    dataset: str
    split: str
    examples_sha256: str
    examples: int
    correct: int
    differences: tuple[Difference, ...]
    max_abs_difference: float
    examples_per_second: dict[str, dict[str, float]]
    hardware: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the file."""
        return dataclasses.asdict(self) | {"differing": len(self.differences)}

    @classmethod
    def read(cls, path: Path) -> "Certificate":
        """Reads a certificate.

        Raises:
            RunError: if it is damaged.
        """
        try:
            content = json.loads(path.read_bytes())
            del content["differing"]
            differences = tuple(Difference(**one) for one in content["differences"])
            certificate = cls(**content | {"differences": differences})
            FORMATS[certificate.format]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error
        return certificate

    def describe(self) -> str:
        """Describes the comparison in one line."""
        differences = "".join(
            f"; example {one.example}: {one.export}, not {one.source}"
            for one in self.differences[:5]
        )
        return (
            f"{self.examples - len(self.differences):,} of {self.examples:,} "
            f"predictions are equal{differences}; logits differ by at most "
            f"{self.max_abs_difference:.1e}"
        )


def certify(source: Source, name: str, folder: Path) -> Certificate:
    """Compares an export with its source on every example.

    Args:
        source: the network.
        name: of the format.
        folder: of the export.

    Raises:
        RunError: if the export cannot be run, or a logit differs by more than
            `MAX_DIFFERENCE`.
    """
    inputs, labels = source.inputs, source.examples.labels
    logits, rates = run(folder, inputs)
    largest = float(np.abs(logits - source.logits).max())
    if not largest <= MAX_DIFFERENCE:  # nor NaN
        raise RunError(
            f"the {name} export in {folder} is not the network at step {source.step} "
            f"of {source.workdir}: logits differ by up to {largest:.3g}"
        )
    own, predicted = source.logits.argmax(-1), logits.argmax(-1)
    differences = tuple(
        Difference(int(index), int(own[index]), int(predicted[index]))
        for index in np.flatnonzero(own != predicted)
    )
    files, export = checksums(folder), FORMATS[name]
    own_rates = runner.examples_per_second(source.predict, inputs)
    runtime = export.packages[-1]
    return Certificate(
        format=name,
        artefact_sha256=files[export.artefact],
        files=files,
        workdir=str(source.workdir),
        step=source.step,
        params_sha256=source.params_sha256,
        data_paths=dict(source.data_paths),
        dataset=source.task.name,
        split=source.split,
        examples_sha256=sha256(*inputs, labels),
        examples=len(labels),
        correct=int((predicted == labels).sum()),
        differences=differences,
        max_abs_difference=largest,
        examples_per_second={
            str(batch): {f"{runtime} export": round(rate), "rnnmnist": round(own_rate)}
            for batch, rate, own_rate in zip(
                runner.BATCH_SIZES, rates, own_rates, strict=True
            )
        },
        hardware=describe_processor(),
        versions={
            package: installed(package)
            for package in ("python", "jax", "flax", *export.packages)
        },
    )


def run(folder: Path, inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, list[float]]:
    """Runs an export in a new process, which imports nothing of this package.

    Returns:
        The logits, float32 [n, classes], and the examples per second for each of
        `runner.BATCH_SIZES`.

    Raises:
        RunError: if the process fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        examples, outputs = (Path(temporary, name) for name in ("in.npz", "out.npz"))
        np.savez(examples, *inputs)
        process = subprocess.run(
            [sys.executable, "-P", runner.__file__, folder, examples, outputs],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if process.returncode:
            last = process.stdout.strip().splitlines()[-1:]
            raise RunError(f"{folder / 'predict.py'} failed: {' '.join(last)}")
        with np.load(outputs) as file:
            return file["logits"], file["rates"].tolist()


def find_changes(certificate: Certificate, source: Source, folder: Path) -> list[str]:
    """Repeats a certificate and returns what has changed, one line each.

    The export is not run if one of its files, the checkpoint or the data have changed.
    """
    saved, files = certificate.files, checksums(folder)
    changes = [
        f"{name} has changed"
        for name in sorted(saved.keys() | files.keys())
        if saved.get(name) != files.get(name)
    ]
    if certificate.params_sha256 != source.params_sha256:
        changes.append(f"the parameters in {source.workdir} have changed")
    labels = source.examples.labels
    if certificate.examples_sha256 != sha256(*source.inputs, labels):
        changes.append(
            f"the {source.split} examples of {source.task.name} have changed"
        )
    if changes:
        return changes
    repeated = certify(source, certificate.format, folder)
    for field in ("correct", "differences"):
        old, new = getattr(certificate, field), getattr(repeated, field)
        if old != new:
            changes.append(f"{field} is {new}, not {old}")
    return changes


def checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of an export but its certificate, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != CERTIFICATE
    }


def sha256(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 of arrays with their types and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
