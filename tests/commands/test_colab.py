"""The Colab notebook: its stored content and its execution."""

import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

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
# Cells that are appended to the notebook and run in the same kernel. In the first cell,
# the callback interrupts training after step 20, so training stops at step 30, where
# the next line is logged.
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


def test_the_notebook_is_stored_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text())
    nbformat.validate(content)
    for cell in content["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_installation_requires_a_repository() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = {cell.id: cell.source for cell in cells if cell.cell_type == "code"}
    names = {"__name__": "__main__"}
    exec(code["settings"], names)
    with pytest.raises(Exception, match="set REPOSITORY") as error:
        exec(code["install"], names)
    assert error.type.__name__ == "CellError"


@pytest.mark.slow
def test_a_wheel_is_typed_and_its_readme_has_no_relative_links(tmp_path: Path) -> None:
    """Building the wheel does not need a network."""
    flags = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "wheel", *flags, f"--wheel-dir={tmp_path}"]
    subprocess.run([*pip, str(REPOSITORY)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert "rnnmnist/py.typed" in file.namelist()
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        text = file.read(name).decode()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == text.count("](") > 0
    assert all(link.startswith("https://") for link in links)


def colab_variables(folder: Path) -> dict[str, str]:
    """Returns the environment variables of a Colab runtime without this package.

    The kernel runs in a virtual environment. It can import the packages of this
    environment, and installs packages in its own folder.
    """
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    package_folder = folder / "installed"
    package_folder.mkdir()
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(source).iterdir():
            if "rnnmnist" not in path.name:
                (package_folder / path.name).symlink_to(path)
    (site_packages / "installed.pth").write_text(str(package_folder))
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    launcher = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": [str(venv / "bin/python"), *launcher]}))
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "connections"),
        "PIP_CONSTRAINT": "",  # CI sets it
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # the build backend is installed
        "PIP_NO_INDEX": "1",
    }


@pytest.mark.slow
def test_the_notebook_can_be_executed(
    tmp_path: Path, unoptimized: dict[str, str], committed: Path, data_dir: Path
) -> None:
    """Training saves a checkpoint if interrupted. Installing replaces no package."""
    variables = {
        "REPOSITORY": f"file://localhost{committed}",
        "OVERRIDES": OVERRIDES | {"data_dir": str(data_dir)},
        "KEEP_ON_DRIVE": True,
    }
    source = "\n".join(f"{name} = {value!r}" for name, value in variables.items())
    content = nbformat.read(NOTEBOOK, as_version=4)
    index = [cell.id for cell in content.cells].index("settings") + 1
    content.cells.insert(index, nbformat.v4.new_code_cell(source))
    for name, text in (("interrupted", INTERRUPTED), ("inspection", INSPECTION)):
        content.cells.append(nbformat.v4.new_code_cell(text, id=name))
    path = tmp_path / "executed.ipynb"
    nbformat.write(content, path)
    execute = Path(sys.executable).with_name("jupyter-execute")
    process = subprocess.run(
        [execute, "--inplace", "--timeout=300", path],
        cwd=tmp_path,
        env=unoptimized | colab_variables(tmp_path / "runtime"),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    texts = {
        name: "".join(output.get("text", "") for output in cell.get("outputs", []))
        for name, cell in cells.items()
    }
    workdir = tmp_path / "runs" / "colab"
    assert "loss" in texts["train"]
    (result,) = (workdir / "evaluation").glob("test-*.json")
    accuracy = json.loads(result.read_text())["accuracy"]
    assert f"{100 * accuracy:.2f} %" in texts["evaluate"]
    contents = [output.get("data", {}) for output in cells["report"].outputs]
    plots = list((workdir / "report").glob("*.png"))
    assert sum("image/png" in data for data in contents) == len(plots) > 1
    assert "saved step 30" in texts["interrupted"]
    assert (tmp_path / "runs/stopped/30/params").is_dir()
    inspection = json.loads(texts["inspection"])
    assert tmp_path / "runtime" in Path(inspection["package"]).parents
    assert "jax" in inspection["before"]
    assert inspection["after"] == inspection["before"]
