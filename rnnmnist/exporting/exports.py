"""Exports a run's network to other runtimes, and compares each export with it."""

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
    NUM_RANDOM_EXAMPLES,
    Certificate,
    compare,
    draw_inputs,
)
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.runs.writing import replace_folder, write_json
from rnnmnist.runtime.devices import make_device_mesh

_logger = logging.getLogger(__name__)

# The names of all exported files, which a new export can replace.
EXPORT_FILES = {"model.onnx", "model.stablehlo", "certificate.json"}
EXPORT_FILES |= {"step.onnx", "step_certificate.json"}


class Export(NamedTuple):
    """A network in the format of another runtime.

    Attributes:
        folder: contains `model.onnx` or `model.stablehlo`, and `certificate.json`. An
            ONNX export also contains the streaming model, `step.onnx`, and
            `step_certificate.json`, unless the network is bidirectional.
        certificate: the content of `certificate.json`.
        step_certificate: the content of `step_certificate.json`. None if there is no
            streaming model.
    """

    folder: Path
    certificate: Certificate
    step_certificate: Certificate | None


def write_exports(
    network: Network, format: str, output: str | Path, *, force: bool
) -> Iterator[tuple[str, Export]]:
    """Writes the exports, and yields each (format, export) pair when it is complete.

    The arguments and errors are the same as for `Model.export`.
    """
    folder = parse_folder(output, "output")
    names = _check_formats(format, folder, force=force)
    task, split, examples = _load_examples(network)
    logits = network.on(make_device_mesh("cpu")).calibrated_logits(examples)

    def write_certificate(artefact: Path, certificate_name: str) -> Certificate:
        certificate = compare(artefact, network, task, split, examples, logits)
        write_json(artefact.with_name(certificate_name), certificate)
        return certificate

    failed_formats = []
    for name in names:
        writer = importlib.import_module(f"rnnmnist.exporting.write_{name}")
        with replace_folder(folder / name) as temporary:
            artefact = temporary / f"model.{name}"
            writer.write(network, artefact)
            certificate = write_certificate(artefact, "certificate.json")
            certificates = [certificate]
            step_certificate = None
            if name == "onnx" and not network.config.model.reads_whole_sequences:
                artefact = temporary / "step.onnx"
                writer.write_step(network, artefact)
                step_certificate = write_certificate(artefact, "step_certificate.json")
                certificates.append(step_certificate)
        yield name, Export(folder / name, certificate, step_certificate)
        if any(result.differing > result.ties for result in certificates):
            failed_formats.append(name)
    if failed_formats:
        raise RunError(
            f"{' and '.join(failed_formats)} in {folder}: some predictions differ from "
            "the predictions of the original network"
        )


def _load_examples(network: Network) -> tuple[Task, str, Inputs]:
    """Loads the examples for the comparison, or draws examples if the data are missing.

    Raises an error instead if the caller specified the path of the data.
    """
    try:
        return load_split(network)
    except MissingDataError:
        if network.settings.keys() & set(DATA_PATHS):
            raise
        _logger.warning(
            "the data of the run are not on this machine, so exports are compared with "
            f"the network on {NUM_RANDOM_EXAMPLES} random {network.task.noun}"
        )
        return network.task, "drawn", draw_inputs(network)


def _check_formats(format: str, folder: Path, *, force: bool) -> list[str]:
    """Returns the formats to write. Checks their folders and required packages."""
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
                f"output: {path} already exists; choose another folder, or replace it "
                "with --force (in Python, force=True)"
            )
        other_files = {file.name for file in path.iterdir()} - EXPORT_FILES
        if other_files:
            raise UserError(
                f"output: {path} contains {min(other_files)}, which is not part of an "
                "export; choose another folder, or move this file"
            )
    packages = [package for name in names for package in FORMATS[name]]
    missing_packages = [
        package for package in packages if importlib.util.find_spec(package) is None
    ]
    if missing_packages:
        raise UserError(
            f"format: {format} requires {' and '.join(missing_packages)}; run "
            f"pip install {' '.join(missing_packages)}"
        )
    return names
