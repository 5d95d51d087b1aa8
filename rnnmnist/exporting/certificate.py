"""Certificates: every example is classified by an export and by its source."""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

import numpy as np

from rnnmnist.checkpoints.checksums import array_checksums, json_checksum
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.errors import RunError
from rnnmnist.evaluation.metrics import field
from rnnmnist.exporting import runner
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.exporting.source import Source, predict
from rnnmnist.runtime.hardware import describe_processor

CERTIFICATE = "certificate.json"
# Of logits, relative to the largest one; sums of float32 in another order differ less.
MAX_DIFFERENCE = 1e-4
# Fields that can differ when a certificate is repeated.
VARIABLE = ("max_abs_difference", "examples_per_second", "hardware", "versions")


@dataclasses.dataclass(frozen=True)
class Difference:
    """An example for which an export predicts another class than its source."""

    example: int  # its index in the split, from 0
    source: int  # class
    export: int


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The comparison of an export with its source: the content of `certificate.json`.

    Attributes:
        format: a name in `FORMATS`.
        artefact_sha256: of the artefact.
        files: the SHA-256 of every file of the export, by name.
        workdir: of the run, an absolute path.
        step: of the checkpoint.
        params_sha256: of its parameters, as in result files.
        data_paths: the overrides with which the data were loaded.
        dataset: the name of the data.
        split: `test`, or `validation` if there is no test split.
        examples_sha256: of the inputs and labels.
        examples: their number.
        correct: the number of those that the export classifies correctly.
        differing: the number of `differences`.
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
    differing: int
    differences: list[Difference]
    max_abs_difference: float
    examples_per_second: dict[str, dict[str, int]]
    hardware: str
    versions: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Certificate":
        """Reads the certificate in a folder that has the name of its format.

        Raises:
            ValueError: if it is missing or damaged.
        """
        try:
            content = json.loads(path.read_bytes())
        except (OSError, RecursionError) as error:
            raise ValueError(str(error)) from error
        kinds = typing.get_type_hints(cls)
        values = {
            name: field(content, name, typing.get_origin(kind) or kind)
            for name, kind in kinds.items()
        }
        if values["format"] != path.parent.name:
            raise ValueError(f"format must be {path.parent.name}")
        if values["data_paths"].keys() - set(DATA_PATHS):
            raise ValueError(f"data_paths must be of {', '.join(DATA_PATHS)}")
        keys = [one.name for one in dataclasses.fields(Difference)]
        values["differences"] = [
            Difference(*(field(one, key, int) for key in keys))
            for one in values["differences"]
        ]
        return cls(**values)

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
    """Compares an export with its source on every example.

    Raises:
        RunError: if the export cannot be run, or its logits are not those of the
            source up to rounding.
    """
    inputs, labels = source.inputs, source.labels
    logits, rates = run(format_name, folder, inputs)
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
    own_rates = runner.examples_per_second(
        functools.partial(predict, source.restored), inputs
    )
    runtime, versions = export.packages[-1], {"python": platform.python_version()}
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
        examples_per_second={
            str(batch): {f"{runtime} export": round(rate), "rnnmnist": round(own_rate)}
            for batch, rate, own_rate in zip(
                runner.BATCH_SIZES, rates, own_rates, strict=True
            )
        },
        hardware=describe_processor(),
        versions=versions,
    )


def run(
    format_name: str, folder: Path, inputs: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, list[float]]:
    """Runs an export in a new process, which imports nothing of this package.

    Returns:
        The logits, float32 [n, classes], and the examples per second for each of
        `runner.BATCH_SIZES`.

    Raises:
        RunError: if the process fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        examples, outputs = (Path(temporary, name) for name in ("in.npz", "out.npz"))
        try:
            np.savez(examples, *inputs)
        except OSError as error:
            raise RunError(f"{temporary} cannot be written: {error}") from error
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
        with np.load(outputs) as file:
            return file["logits"], file["rates"].tolist()


def script(format_name: str) -> Path:
    """Returns the `predict.py` of a format."""
    return Path(__file__).with_name(f"predict_{format_name}.py")


def find_changes(saved: Certificate, source: Source, folder: Path) -> list[str]:
    """Repeats a certificate and returns what has changed, one line each.

    The export is not run if one of its files, the checkpoint or the data have changed.

    Raises:
        RunError: as `certify` does.
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
    repeated = dataclasses.asdict(certify(source, saved.format, folder))
    return [
        f"{name} is {repeated[name]}, not {value}"
        for name, value in dataclasses.asdict(saved).items()
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
