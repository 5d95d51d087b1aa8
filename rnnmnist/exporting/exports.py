"""Writes a run's network for other runtimes, each with the result of a comparison."""

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rnnmnist.config.files import parse_folder
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Inputs
from rnnmnist.errors import MissingDataError, RunError, UserError, format_value
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.splits import load_split
from rnnmnist.exporting.comparison import (
    DRAWN,
    Certificate,
    compare,
    draw_inputs,
)
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.runs.writing import write_folder, write_json
from rnnmnist.runtime.devices import make_device_mesh

_logger = logging.getLogger(__name__)

# The files in the folders of exports.
WRITTEN = {"model.onnx", "model.stablehlo", "certificate.json"}
WRITTEN |= {"step.onnx", "step_certificate.json"}


class Export(NamedTuple):
    """A network in a format of another runtime.

    Attributes:
        folder: contains the network, `model.onnx` or `model.stablehlo`, and
            `certificate.json`; with `model.onnx` also `step.onnx`, which computes a
            time step, and `step_certificate.json`, unless the network is bidirectional.
        certificate: the content of `certificate.json`.
        step_certificate: the content of `step_certificate.json`, None without it.
    """

    folder: Path
    certificate: Certificate
    step_certificate: Certificate | None


def write_exports(
    run: Network, format: str, output: str | Path, *, force: bool
) -> Iterator[tuple[str, Export]]:
    """Yields each format and its export, when it has been written.

    Arguments and errors are those of `Model.export`.
    """
    folder = parse_folder(output, "output")
    names = _check_formats(format, folder, force=force)
    task, split, examples = _load_examples(run)
    expected = run.on(make_device_mesh("cpu")).calibrated_logits(examples)

    def certify(artefact: Path, certificate_name: str) -> Certificate:
        certificate = compare(artefact, run, task, split, examples, expected)
        write_json(artefact.with_name(certificate_name), certificate)
        return certificate

    wrong = []
    for name in names:
        writer = importlib.import_module(f"rnnmnist.exporting.write_{name}")
        with write_folder(folder / name) as temporary:
            artefact = temporary / f"model.{name}"
            writer.write(run, artefact)
            certificate = certify(artefact, "certificate.json")
            certificates = [certificate]
            step_certificate = None
            if name == "onnx" and not run.config.model.reads_whole_sequences:
                artefact = temporary / "step.onnx"
                writer.write_step(run, artefact)
                step_certificate = certify(artefact, "step_certificate.json")
                certificates.append(step_certificate)
        yield name, Export(folder / name, certificate, step_certificate)
        if any(one.differing > one.ties for one in certificates):
            wrong.append(name)
    if wrong:
        raise RunError(
            f"{' and '.join(wrong)} in {folder}: some predictions differ from the "
            "network's"
        )


def _load_examples(run: Network) -> tuple[Task, str, Inputs]:
    """Loads the examples of the comparison, or draws them if the data are missing.

    Data that the caller has named must be there.
    """
    try:
        return load_split(run)
    except MissingDataError:
        if run.settings.keys() & set(DATA_PATHS):
            raise
        _logger.warning(
            "the data of the run are not on this machine, so exports are compared on "
            f"{DRAWN} randomly drawn {run.task.noun}"
        )
        return run.task, "drawn", draw_inputs(run)


def _check_formats(format: str, folder: Path, *, force: bool) -> list[str]:
    """Returns the formats to write.

    Their folders do not exist or may be replaced, and their packages are installed.
    """
    if format not in (*FORMATS, "all"):
        allowed = ", ".join(FORMATS)
        raise UserError(
            f"format: must be one of {allowed}, all, not {format_value(format)}"
        )
    names = list(FORMATS) if format == "all" else [format]
    for name in names:
        path = parse_folder(folder / name, "output")
        if not path.exists():
            continue
        if not force:
            raise UserError(
                f"output: {path} exists; name another folder, or replace it with "
                "--force (in Python, force=True)"
            )
        others = {file.name for file in path.iterdir()} - WRITTEN
        if others:
            raise UserError(
                f"output: {path} contains {min(others)}, which no export wrote; "
                "name another folder, or move this file"
            )
    packages = [package for name in names for package in FORMATS[name]]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format: {format} needs {' and '.join(missing)}; run "
            f"pip install {' '.join(missing)}"
        )
    return names
