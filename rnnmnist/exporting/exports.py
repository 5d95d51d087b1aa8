"""Exports a network to other runtimes, and compares the predictions."""

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from rnnmnist.config.files import parse_folder
from rnnmnist.config.schema import DATA_PATHS
from rnnmnist.config.tasks import Task
from rnnmnist.data.examples import Examples, Inputs
from rnnmnist.errors import MissingDataError, RunError, UserError, format_value
from rnnmnist.evaluation.network import Network
from rnnmnist.evaluation.splits import load_split
from rnnmnist.exporting.comparison import (
    FILTER_TIE_TOLERANCE,
    NUM_RANDOM_EXAMPLES,
    TIE_TOLERANCE,
    Certificate,
    count_differences,
    draw_inputs,
    exported_inputs,
    predict_logits,
)
from rnnmnist.exporting.formats import FORMATS
from rnnmnist.runs.writing import write_atomically, write_json
from rnnmnist.runtime.devices import make_single_device_mesh
from rnnmnist.runtime.machine import installed_versions

_logger = logging.getLogger(__name__)


def write_exports(
    network: Network, format: str, output: str | Path, *, force: bool
) -> Iterator[tuple[str, Certificate]]:
    """Writes the exports, and yields the format and certificate of each when complete.

    The arguments and errors are the same as for `Model.export`.
    """
    folder = parse_folder(output, "output")
    names = _select_formats(format, folder, force=force)
    task, split, examples = _load_examples(network)
    # The network reads the examples in their stored dtype, as in `evaluate`. An export
    # reads the examples in the format that its users pass.
    expected_logits = network.on(make_single_device_mesh("cpu")).calibrated_logits(
        examples
    )
    inputs = exported_inputs(network, examples)
    is_closed_form = network.config.model.is_closed_form
    tie_tolerance = FILTER_TIE_TOLERANCE if is_closed_form else TIE_TOLERANCE
    for name in names:
        module = importlib.import_module(f"rnnmnist.exporting.{name}_model")
        content = module.serialize(network)
        logits = predict_logits(module.deserialize(content), inputs)
        differing, ties = count_differences(logits, expected_logits, tie_tolerance)
        correct = None
        if isinstance(examples, Examples):
            correct = int((logits.argmax(axis=-1) == examples.labels).sum())
        versions = {package: metadata.version(package) for package in FORMATS[name]}
        certificate = Certificate(
            dataset=task.name,
            split=split,
            step=network.checkpoint_step,
            params_sha256=network.params_sha256,
            artefact_sha256=hashlib.sha256(content).hexdigest(),
            examples=len(examples),
            correct=correct,
            differing=differing,
            ties=ties,
            max_abs_difference=float(np.abs(logits - expected_logits).max()),
            versions=installed_versions() | versions,
        )
        write_atomically(folder / name / f"model.{name}", content)
        write_json(folder / name / "certificate.json", certificate)
        yield name, certificate
        if differing > ties:
            raise RunError(
                f"{name} export in {folder}: {differing - ties} of {len(examples)} "
                "predictions differ from the predictions of the original network; if "
                "a feature has large values, such as timestamps, subtract a constant "
                "before training"
            )


def _load_examples(network: Network) -> tuple[Task, str, Inputs]:
    """Loads the examples for the comparison, or draws examples if the data are missing.

    If the caller specified the path of the data, missing data raise an error instead.
    """
    try:
        return load_split(network)
    except MissingDataError:
        if network.settings.keys() & set(DATA_PATHS):
            raise
        _logger.warning(
            "the data of the run are not on this machine, so exports and the network "
            f"are compared on {NUM_RANDOM_EXAMPLES} random {network.task.noun}"
        )
        return network.task, "drawn", draw_inputs(network)


def _select_formats(format: str, folder: Path, *, force: bool) -> list[str]:
    """Returns the formats to write, after validating their folders and packages."""
    names = list(FORMATS) if format == "all" else [format]
    for name in names:
        if name not in FORMATS:
            raise UserError(
                f"format: must be onnx, stablehlo or all, not {format_value(format)}"
            )
        path = folder / name
        if path.exists() and not force:
            raise UserError(
                f"output: {path} already exists; choose another folder, or replace "
                "the files in it with --force (in Python, force=True)"
            )
        for package in FORMATS[name]:
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"format: {name} requires {package}; run pip install {package}"
                )
    return names
