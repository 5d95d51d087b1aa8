"""Exports a run's network to other runtimes, and certifies each export."""

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
from rnnmnist.runs.writing import replace_folder, write_json
from rnnmnist.runtime.devices import make_device_mesh

_logger = logging.getLogger(__name__)

# The files that exports write, which a new export may replace.
WRITTEN = {"model.onnx", "model.stablehlo", "certificate.json"}
WRITTEN |= {"step.onnx", "step_certificate.json"}


class Export(NamedTuple):
    """A network in the format of another runtime.

    Attributes:
        folder: contains `model.onnx` or `model.stablehlo`, and `certificate.json`. Next
            to `model.onnx`, it also contains the streaming model, `step.onnx`, and
            `step_certificate.json`, unless the network is bidirectional.
        certificate: the content of `certificate.json`.
        step_certificate: the content of `step_certificate.json`; None without a
            streaming model.
    """

    folder: Path
    certificate: Certificate
    step_certificate: Certificate | None


def write_exports(
    run: Network, format: str, output: str | Path, *, force: bool
) -> Iterator[tuple[str, Export]]:
    """Writes the exports, and yields each format with its export when it is complete.

    Arguments and errors are the same as for `Model.export`.
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
        with replace_folder(folder / name) as temporary:
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
        if any(each.differing > each.ties for each in certificates):
            wrong.append(name)
    if wrong:
        raise RunError(
            f"{' and '.join(wrong)} in {folder}: some predictions differ from the "
            "network's"
        )


def _load_examples(run: Network) -> tuple[Task, str, Inputs]:
    """Loads the examples of the comparison, or draws random examples without the data.

    If the caller names the data explicitly, missing data are an error.
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
    """Returns the formats to write, after checking their folders and packages."""
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
