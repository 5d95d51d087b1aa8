"""Writes exports with certificates, and repeats these.

A certificate records that an export and its source classify every example alike. The
folder of an export is written whole or not at all.
"""

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from rnnmnist.errors import RunError, UserError
from rnnmnist.evaluation.network import TrainedNetwork
from rnnmnist.exporting.formats import FORMATS, check_packages
from rnnmnist.exporting.source import MAX_DIFFERENCE, Source, combine
from rnnmnist.runs.checkpoints import array_checksums, json_checksum
from rnnmnist.runs.writing import write_folder, write_json
from rnnmnist.runtime.machine import installed_versions
from rnnmnist.runtime.signals import raised_interrupts

FOLDER = Path(__file__).parent
CERTIFICATE = "certificate.json"
# Fields that can differ when a certificate is repeated.
VARIABLE = ("max_abs_difference", "versions", "workdir", "data_paths")


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of an export with its source, as in `certificate.json`."""

    format: str  # a name in `FORMATS`
    artefact_sha256: str
    files: dict[str, str]  # SHA-256 of every file of the export, by name
    workdir: str  # an absolute path
    step: int
    params_sha256: str  # as in result files
    data_paths: dict[str, str | None]  # with which the data were loaded
    dataset: str
    split: str  # `test`; `validation` or `train` if there is no test split
    examples_sha256: str  # inputs and labels
    examples: int
    correct: int  # classified correctly by the export
    differing: int  # classified otherwise than by the source
    max_abs_difference: float  # between logits
    versions: dict[str, str]  # by library


def write(source: Source, name: str, folder: Path) -> Certificate:
    """Writes an export with its certificate to a folder named like its format.

    An existing one is replaced.
    """
    with write_folder(folder / name) as new:
        importlib.import_module(f"rnnmnist.exporting.write_{name}").write(source, new)
        shutil.copyfile(FOLDER / f"predict_{name}.py", new / "predict.py")
        certificate = certify(source, new)
        write_json(new / CERTIFICATE, certificate)
    return certificate


def certify(source: Source, folder: Path) -> Certificate:
    """Compares an export, in a folder named like its format, with its source."""
    network = source.network
    logits = run(folder, source.inputs)
    expected = combine(network.logits(network.inputs(*source.inputs)))
    largest = float(np.abs(logits - expected).max())
    if not largest <= MAX_DIFFERENCE * max(1, np.abs(expected).max()):  # nor NaN
        raise RunError(
            f"the {folder.name} export is not the network at step "
            f"{network.checkpoint_step} of {network.workdir}: logits differ by up to "
            f"{largest:.3g}"
        )
    predicted = logits.argmax(-1)
    files = checksums(folder)
    return Certificate(
        format=folder.name,
        artefact_sha256=files[f"model.{folder.name}"],
        files=files,
        workdir=str(network.workdir),
        step=network.checkpoint_step,
        params_sha256=network.params_sha256,
        data_paths=dict(network.paths),
        dataset=source.dataset,
        split=source.split,
        examples_sha256=hash_examples(source),
        examples=len(logits),
        correct=int((predicted == source.labels).sum()),
        differing=int((predicted != source.logits.argmax(-1)).sum()),
        max_abs_difference=float(np.abs(logits - source.logits).max()),
        versions=installed_versions()
        | {package: metadata.version(package) for package in FORMATS[folder.name]},
    )


def run(folder: Path, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Returns the logits of an export, float32 [n, classes].

    It runs in a new process, which imports nothing of this package.
    """
    with raised_interrupts(), tempfile.TemporaryDirectory() as temporary:
        examples = Path(temporary, "in.npz")
        outputs = Path(temporary, "out.npy")
        np.savez(examples, *inputs)
        scripts = FOLDER / "runner.py", FOLDER / f"predict_{folder.name}.py"
        process = subprocess.run(
            [sys.executable, "-P", *scripts, folder, examples, outputs],
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
        return np.load(outputs)


def verify(
    folder: Path, workdir: Path | None, paths: Mapping[str, str | None]
) -> Iterator[tuple[str, list[str]]]:
    """Repeats the certificates of all exports in a folder.

    A workdir and paths that have moved replace those of the certificates. Yields the
    name of each format, and what has changed, one line each.
    """
    names = [name for name in FORMATS if (folder / name).is_dir()]
    if not names:
        raise UserError(
            f"verify: {folder} has no folder {' or '.join(FORMATS)}; name the "
            "output folder of an export"
        )
    check_packages(names)
    sources: dict[str, Source] = {}
    for name in names:
        try:
            content = (folder / name / CERTIFICATE).read_bytes()
            saved = msgspec.json.decode(content, type=Certificate)
        except (OSError, ValueError) as error:
            yield name, [f"{CERTIFICATE} is damaged: {error}"]
            continue
        run = workdir or Path(saved.workdir), str(saved.step)
        moved = {**saved.data_paths, **paths}
        key = f"{run} {moved}"
        if key not in sources:
            sources[key] = Source.create(TrainedNetwork(*run, paths=moved))
        yield name, find_changes(saved, sources[key], folder / name)


def find_changes(saved: Certificate, source: Source, folder: Path) -> list[str]:
    """Repeats a certificate and returns what has changed, one line each.

    The export is not run if one of its files, the checkpoint or the data have changed.
    """
    then, now = saved.files, checksums(folder)
    changed = [name for name in then | now if then.get(name) != now.get(name)]
    if saved.params_sha256 != source.network.params_sha256:
        changed.append(f"the parameters in {source.network.workdir}")
    if saved.examples_sha256 != hash_examples(source):
        changed.append(f"the {source.split} examples of {source.dataset}")
    if changed:
        return [f"{name} changed" for name in changed]
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
