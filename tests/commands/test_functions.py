"""What commands do, called from Python."""

import json
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import pytest
from support import called, output_of, run_python

import rnnmnist

LABELS = np.arange(60) % 2
INPUTS = np.random.default_rng(0).normal(LABELS[:, None, None], size=(60, 5, 1))
SPLIT = np.array(["train", "train", "test"])[np.arange(60) % 3]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rnnmnist.fit(
        INPUTS,
        LABELS,
        workdir=tmp_path_factory.mktemp("python") / "run",
        split=SPLIT,
        num_steps=20,
        num_seeds=2,
        cell="lstm",
        hidden_size=4,
        num_devices=1,
        verbose=False,
    )


NAMES = ("evaluate", "export", "report")


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import rnnmnist.{name}",
        "from rnnmnist.{name} import __main__",
        "import importlib; importlib.import_module('rnnmnist.{name}.__main__')",
        "from rnnmnist import {name}",
        "from rnnmnist import *",
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


@pytest.mark.parametrize("name", NAMES)
def test_a_command_of_a_function_starts_without_a_warning(
    name: str, environment: dict[str, str]
) -> None:
    """As Python warns of a module that is imported before it is run."""
    argv = "-W", "error", "-m", f"rnnmnist.{name}", "--help"
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
    assert (result.examples, len(result.members)) == (40, 2)
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
    assert (report.split, report.scores.confusion) == ("test", scores.confusion)
    assert {*report.pictures, report.page} == set((workdir / "report").iterdir())
    assert f"--workdir={workdir}</" in report.page.read_text()
    assert capsys.readouterr() == ("", "")
    output_of(called("evaluate", f"--workdir={workdir}", "--split=train"))
    assert path.read_bytes() == content


def test_settings_of_jax_do_not_reach_the_functions(
    workdir: Path, tmp_path: Path
) -> None:
    def outcomes(output: Path) -> list[Any]:
        exports = rnnmnist.export(workdir, format="all", output=output)
        certificates = [export.certificate for export in exports.values()]
        return [
            rnnmnist.evaluate(workdir),
            rnnmnist.report(workdir).scores,
            [certificate.max_abs_difference for certificate in certificates],
        ]

    expected = outcomes(tmp_path / "as-usual")
    changes = {"jax_enable_x64": True, "jax_transfer_guard": "disallow"}
    before = {name: jax.config.values[name] for name in changes}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        assert outcomes(tmp_path / "changed") == expected
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
