"""`notebooks/colab.ipynb`: as it is stored, and executed."""

import ast
import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support import REPOSITORY

NOTEBOOK = REPOSITORY / "notebooks" / "colab.ipynb"
OVERRIDES = {
    "name": "mnist5k",
    "hidden_size": 16,
    "num_steps": 40,
    "log_every_steps": 10,
    "eval_every_steps": 20,
}
# Appended to the notebook, and run in the same kernel. An interrupt after 20 steps ends
# the training of the first cell at its next line, after 30.
INTERRUPTED = """
import signal

def interrupt(_):
    os.kill(os.getpid(), signal.SIGINT)

try:
    rnnmnist.train(CONFIG, workdir="runs/stopped", callback=interrupt, **OVERRIDES)
except KeyboardInterrupt as error:
    print(error)
"""
INSPECTION = """
import importlib.metadata, json
lines = [line.split("==") for line in VERSIONS.read_text().split()]
print(json.dumps({
    "package": rnnmnist.__file__,
    "before": dict(lines),
    "after": {name: importlib.metadata.version(name) for name, _ in lines},
}))
"""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def cells() -> dict[str, Any]:
    return {cell.id: cell for cell in read(NOTEBOOK).cells}


def settings() -> dict[str, Any]:
    """The notebook's parameters, by name."""
    (cell,) = [
        cell
        for cell in cells().values()
        if "parameters" in cell.metadata.get("tags", [])
    ]
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(cell.source).body
    }


def test_the_notebook_is_stored_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text())
    nbformat.validate(content)
    for cell in content["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the package, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "wheel", *flags, f"--wheel-dir={folder}"]
    subprocess.run([*pip, str(REPOSITORY)], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def runtime(
    tmp_path_factory: pytest.TempPathFactory, unoptimized: dict[str, str]
) -> dict[str, str]:
    """The environment of a runtime like Colab's, with all packages but this one.

    Its kernel runs in a virtual environment that sees the packages of this one and
    installs into its own folder.
    """
    folder = tmp_path_factory.mktemp("runtime")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    installed = folder / "installed"
    installed.mkdir()
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(source).iterdir():
            if "rnnmnist" not in path.name:
                (installed / path.name).symlink_to(path)
    (site_packages / "installed.pth").write_text(str(installed))
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    launcher = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": [str(venv / "bin/python"), *launcher]}))
    return unoptimized | {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "connections"),
        "PIP_CONSTRAINT": "",  # of CI
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # the backend is installed
        "PIP_NO_INDEX": "1",
    }


def printed(cell: Any) -> str:
    """The text that a cell printed."""
    return "".join(
        output.text for output in cell.outputs if output.output_type == "stream"
    )


def num_images(cell: Any) -> int:
    """The number of PNGs that a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(scope="module")
def executed(
    tmp_path_factory: pytest.TempPathFactory,
    runtime: dict[str, str],
    committed: Path,
    data_dir: Path,
) -> tuple[Path, dict[str, Any]]:
    """A folder in which the notebook was executed, and the executed cells, by name."""
    folder = tmp_path_factory.mktemp("content")
    injected = {
        "SOURCE": f"git+file://localhost{committed}",
        "OVERRIDES": OVERRIDES | {"data_dir": str(data_dir)},
        "KEEP_ON_DRIVE": True,
    }
    assert set(injected) <= set(settings())
    source = "\n".join(f"{name} = {value!r}" for name, value in injected.items())
    content = read(NOTEBOOK)
    index = [cell.id for cell in content.cells].index("settings") + 1
    content.cells.insert(index, nbformat.v4.new_code_cell(source))
    for name, text in (("interrupted", INTERRUPTED), ("inspection", INSPECTION)):
        content.cells.append(nbformat.v4.new_code_cell(text, id=name))
    path = folder / "executed.ipynb"
    nbformat.write(content, path)
    execute = Path(sys.executable).with_name("jupyter-execute")
    finished = subprocess.run(
        [execute, "--inplace", "--timeout=300", path],
        cwd=folder,
        env=runtime,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return folder, {cell.id: cell for cell in read(path).cells}


@pytest.mark.slow
def test_a_wheel_is_typed_and_its_readme_has_absolute_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        assert "rnnmnist/py.typed" in file.namelist()
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        links = re.findall(r"\]\(([^)]+)\)", file.read(name).decode())
    assert len(links) > 20
    assert all(link.startswith("https://") for link in links)


@pytest.mark.slow
def test_the_notebook_can_be_executed(executed: tuple[Path, dict[str, Any]]) -> None:
    folder, cells = executed
    workdir = folder / "runs" / "colab"
    assert "loss" in printed(cells["train"])
    (result,) = (workdir / "evaluation").glob("test-*.json")
    accuracy = json.loads(result.read_text())["accuracy"]
    assert f"{100 * accuracy:.2f} %" in printed(cells["evaluate"])
    plots = list((workdir / "report").glob("*.png"))
    assert num_images(cells["report"]) == len(plots) > 1


@pytest.mark.slow
def test_an_interrupt_of_the_training_saves(
    executed: tuple[Path, dict[str, Any]],
) -> None:
    folder, cells = executed
    assert "saved step 30" in printed(cells["interrupted"])
    assert (folder / "runs/stopped/30/params").is_dir()


@pytest.mark.slow
def test_the_installation_replaces_nothing(
    executed: tuple[Path, dict[str, Any]], runtime: dict[str, str]
) -> None:
    _, cells = executed
    found = json.loads(printed(cells["inspection"]))
    assert Path(runtime["JUPYTER_PATH"]).parent in Path(found["package"]).parents
    assert "jax" in found["before"]
    assert found["after"] == found["before"]
