"""The Python methods that correspond to commands."""

import json
import pkgutil
from pathlib import Path

import msgspec
import pytest
from support import called, fit_small, output_of

import rnnmnist
from rnnmnist.runs.records import Record


def test_no_public_name_is_a_module() -> None:
    """Otherwise, the import of a module could replace a function of the same name."""
    modules = {module.name for module in pkgutil.iter_modules(rnnmnist.__path__)}
    assert modules.isdisjoint(rnnmnist.__all__)


def test_methods_return_the_results_that_commands_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The methods print nothing."""
    workdir = fit_small(tmp_path / "run")
    model = rnnmnist.load(workdir, "latest")
    result = model.evaluate("train")
    (path,) = (workdir / "evaluation").glob("train-*.json")
    content = path.read_bytes()
    Record(tmp_path).save_result(result)
    assert (tmp_path / result.path).read_bytes() == content
    assert (result.examples, len(result.members)) == (36, 1)
    certificates = model.export("all", tmp_path / "exports")
    assert list(certificates) == ["onnx", "stablehlo"]
    for name, certificate in certificates.items():
        written = tmp_path / "exports" / name / "certificate.json"
        assert msgspec.to_builtins(certificate) == json.loads(written.read_text())
    report = rnnmnist.load(workdir).report()
    other = rnnmnist.load(workdir, path=workdir / "arrays.data").evaluate()
    assert report.result.split == "validation"
    assert report.result.confusion == other.confusion
    text = report.page.read_text()
    assert f"{other.correct} of {other.examples}" in text
    assert {*report.plots, report.page} == set((workdir / "report").iterdir())
    assert capsys.readouterr() == ("", "")
    output_of(called("evaluate", f"--workdir={workdir}", "--split=train"))
    assert path.read_bytes() == content
