"""What commands do, called from Python."""

import json
from pathlib import Path
from typing import Any

import jax
import msgspec
import pytest
from support import called, fit_small, output_of, run_python

import rnnmnist


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_small(tmp_path_factory.mktemp("python") / "run", num_seeds=2)


NAMES = ("evaluate", "export", "report")


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "from rnnmnist.{name} import __main__",
        "from rnnmnist import {name}",
        "import rnnmnist; rnnmnist.Predictor",
    ],
)
def test_a_name_is_the_function_after_any_imports(
    first: str, environment: dict[str, str]
) -> None:
    program = "".join(
        f"{first.format(name=name)}\nimport rnnmnist.{name}, types\n"
        f"assert type(rnnmnist.{name}) is types.FunctionType, rnnmnist.{name}\n"
        for name in NAMES
    )
    finished = run_python("-W", "error", "-c", program, environment=environment)
    assert finished.returncode == 0, finished.stderr


def test_a_command_of_a_function_starts_without_a_warning(
    environment: dict[str, str],
) -> None:
    """As Python warns of a module that is imported before it is run."""
    argv = "-W", "error", "-m", "rnnmnist.evaluate", "--help"
    finished = run_python(*argv, environment=environment)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_functions_return_what_their_commands_write(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And print nothing."""
    result = rnnmnist.evaluate(workdir, "train", selector="latest")
    (path,) = (workdir / "evaluation").glob("train-*.json")
    content = path.read_bytes()
    assert msgspec.json.decode(content, type=rnnmnist.Result) == result
    assert (result.examples, len(result.members)) == (36, 2)
    exports = rnnmnist.export(workdir, format="all", output=tmp_path / "exports")
    assert list(exports) == ["onnx", "stablehlo"]
    for name, (folder, certificate, step_certificate) in exports.items():
        assert (folder / f"model.{name}").exists()
        written = json.loads((folder / "certificate.json").read_text())
        assert msgspec.to_builtins(certificate) == written
        assert (step_certificate is not None) == (name == "onnx")
    folder_of_step, _, step_certificate = exports["onnx"]
    written = json.loads((folder_of_step / "step_certificate.json").read_text())
    assert msgspec.to_builtins(step_certificate) == written
    report = rnnmnist.report(workdir)
    path_of_data = workdir / "run.data"
    scores = rnnmnist.evaluate(workdir, paths={"data.path": path_of_data})
    assert (report.split, report.scores.confusion) == ("validation", scores.confusion)
    assert {*report.pictures, report.page} == set((workdir / "report").iterdir())
    assert f"--workdir={workdir}</" in report.page.read_text()
    assert capsys.readouterr() == ("", "")
    output_of(called("evaluate", f"--workdir={workdir}", "--split=train"))
    assert path.read_bytes() == content


@pytest.mark.usefixtures("unrendered")
def test_settings_of_jax_do_not_reach_the_functions(workdir: Path) -> None:
    def outcomes() -> list[Any]:
        return [rnnmnist.evaluate(workdir), rnnmnist.report(workdir).scores]

    expected = outcomes()
    changes = {"jax_enable_x64": True, "jax_transfer_guard": "disallow"}
    before = {name: jax.config.values[name] for name in changes}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        assert outcomes() == expected
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
