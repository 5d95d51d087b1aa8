"""What commands do, called from Python."""

import json
import pkgutil
from pathlib import Path

import msgspec
import pytest
from support import called, fit_small, output_of

import rnnmnist
from rnnmnist.runs.results import write_result


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_small(tmp_path_factory.mktemp("python") / "run", num_seeds=2)


def test_no_public_name_is_a_module() -> None:
    """So that imports of modules, in any order, replace no function."""
    modules = {module.name for module in pkgutil.iter_modules(rnnmnist.__path__)}
    assert modules.isdisjoint(rnnmnist.__all__)


def test_the_methods_return_what_their_commands_write(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And print nothing."""
    model = rnnmnist.load(workdir, "latest")
    result = model.evaluate("train")
    (path,) = (workdir / "evaluation").glob("train-*.json")
    content = path.read_bytes()
    assert write_result(tmp_path, result).read_bytes() == content
    assert (result.examples, len(result.networks)) == (36, 2)
    exports = model.export("all", tmp_path / "exports")
    assert list(exports) == ["onnx", "stablehlo"]
    for name, (folder, certificate, step_certificate) in exports.items():
        assert (folder / f"model.{name}").exists()
        written = json.loads((folder / "certificate.json").read_text())
        assert msgspec.to_builtins(certificate) == written
        assert (step_certificate is not None) == (name == "onnx")
    folder_of_step, _, step_certificate = exports["onnx"]
    written = json.loads((folder_of_step / "step_certificate.json").read_text())
    assert msgspec.to_builtins(step_certificate) == written
    model = rnnmnist.load(workdir)
    report = model.report()
    path_of_data = workdir / "run.data"
    scores = rnnmnist.load(workdir, path=path_of_data).evaluate()
    assert (report.scores.split, report.scores.confusion) == (
        "validation",
        scores.confusion,
    )
    assert {*report.pictures, report.page} == set((workdir / "report").iterdir())
    assert f"--workdir={workdir}</" in report.page.read_text()
    assert capsys.readouterr() == ("", "")
    output_of(called("evaluate", f"--workdir={workdir}", "--split=train"))
    assert path.read_bytes() == content
