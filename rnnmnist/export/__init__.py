"""The function `rnnmnist.export`; `python -m rnnmnist.export` runs `__main__`.

The package `rnnmnist` imports this module, so that `rnnmnist.export` is the function
after any imports. Libraries are therefore imported in the functions.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

TYPE_CHECKING = False  # as in the package `rnnmnist`
if TYPE_CHECKING:
    from typing import Literal

    from rnnmnist.exporting.comparison import Export


def export(
    workdir: str | Path,
    *,
    format: "Literal['onnx', 'stablehlo', 'all']",
    output: str | Path,
    force: bool = False,
    selector: str | int = "best",
    paths: Mapping[str, str | Path | None] = {},
    cell: str | None = None,
) -> "dict[str, Export]":
    """Writes a network for other runtimes, and compares it with the checkpoint.

    Each format gets a folder in `output`. It computes on a CPU device, if jax has one.

    Args:
        workdir: the folder of the run.
        format: what to write.
        output: the folder in which to write, which need not exist.
        force: whether folders of the formats in `output` are replaced.
        selector: `best`, `latest` or the number of a step.
        paths: as for `rnnmnist.evaluate`.
        cell: as for `rnnmnist.Predictor`.

    Returns:
        By the name of the format, its folder and the result of the comparison.

    Raises:
        UserError: if there is no such run or data, a package is missing for a format,
            a folder exists, or the network cannot be written in a format.
        RunError: if an export predicts another class than the network for an example,
            unless the logits of the two classes are equal but for rounding. All exports
            have been written then.
        OSError: if a file cannot be read or written.
    """
    from rnnmnist.runtime.library_logs import without_library_logs

    exports = export_each(
        workdir,
        format=format,
        output=output,
        force=force,
        selector=selector,
        paths=paths,
        cell=cell,
    )
    with without_library_logs():
        return dict(exports)


def export_each(
    workdir: str | Path,
    *,
    format: str,
    output: str | Path,
    force: bool,
    selector: str | int,
    paths: Mapping[str, str | Path | None],
    cell: str | None,
) -> "Iterator[tuple[str, Export]]":
    """Yields what `export` returns, each format when it has been written."""
    import functools
    import importlib

    from rnnmnist.config.files import parse_folder, resolve_workdir
    from rnnmnist.errors import RunError
    from rnnmnist.exporting.formats import check_packages

    folder = parse_folder(str(output), "output")
    names = _check_formats(format, folder, force=force)
    check_packages(names)
    from rnnmnist.evaluation.network import TrainedNetwork
    from rnnmnist.exporting.comparison import (
        Export,
        compare,
        is_wrong,
        warn_of_lost_digits,
    )
    from rnnmnist.runs.writing import write_folder, write_json
    from rnnmnist.runtime.compilation import enable_default_cache
    from rnnmnist.runtime.jax_defaults import refuse_fork
    from rnnmnist.runtime.mesh import make_cpu_mesh

    refuse_fork()
    enable_default_cache()
    network = TrainedNetwork(
        resolve_workdir(str(workdir)), str(selector), make_cpu_mesh(), paths, cell
    )
    task, split, examples = network.load_split()
    warn_of_lost_digits(network, examples)
    expected = network.calibrated_logits(examples)
    certify = functools.partial(
        compare,
        network=network,
        task=task,
        split=split,
        examples=examples,
        expected=expected,
    )
    wrong = []
    for name in names:
        writer = importlib.import_module(f"rnnmnist.exporting.write_{name}")
        with write_folder(folder / name) as temporary:
            artefact = temporary / f"model.{name}"
            writer.write(network, artefact)
            certificate = certify(artefact)
            write_json(temporary / "certificate.json", certificate)
            step_certificate = None
            if name == "onnx" and not network.config.model.bidirectional:
                artefact = temporary / "step.onnx"
                writer.write_step(network, artefact)
                step_certificate = certify(artefact)
                write_json(temporary / "step_certificate.json", step_certificate)
        exported = Export(folder / name, certificate, step_certificate)
        yield name, exported
        if is_wrong(exported):
            wrong.append(name)
    if wrong:
        raise RunError(
            f"{' and '.join(wrong)} in {folder} predict another class for some examples"
        )


def _check_formats(format: str, folder: Path, *, force: bool) -> list[str]:
    """Returns the formats to write, whose folders do not exist or may be replaced."""
    from rnnmnist.errors import UserError, format_value
    from rnnmnist.exporting.formats import FORMATS

    if format not in (*FORMATS, "all"):
        allowed = ", ".join(FORMATS)
        raise UserError(
            f"format: must be one of {allowed}, all, not {format_value(format)}"
        )
    names = list(FORMATS) if format == "all" else [format]
    for name in names:
        if (folder / name).exists() and not force:
            raise UserError(
                f"output: {folder / name} exists; name another folder, or replace it "
                "with --force (in Python, force=True)"
            )
    return names
