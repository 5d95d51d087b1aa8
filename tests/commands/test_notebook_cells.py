"""The notebook, executed as it is, and with each failure of its installation."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import trainer
from colab_notebook import NOTEBOOK, cells, read, settings
from support import ORIGINALS, REPOSITORY

from rnnmnist.runs import logs

LAST = 40  # steps
OVERRIDES = (
    "--config.model.hidden_size=16",
    f"--config.train.num_steps={LAST}",
    "--config.train.log_every_steps=10",
    "--config.train.eval_every_steps=20",
)
# Appended to the notebook, and run in the same kernel.
INSPECTION = """
import importlib.metadata, json, rnnmnist
lines = [line.split("==") for line in VERSIONS.read_text().split()]
print(json.dumps({
    "heavy": sorted({"jax", "jaxlib", "flax"} & set(sys.modules)),
    "package": rnnmnist.__file__,
    "before": dict(lines),
    "after": {name: importlib.metadata.version(name) for name, _ in lines},
}))
"""


def code_cell(source: str, **fields: str) -> Any:
    return nbformat.v4.new_code_cell(source, **fields)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the package, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *flags, str(REPOSITORY)], check=True
    )
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
    spec = {
        "argv": [str(venv / "bin" / "python"), *launcher],
        "display_name": "Python 3",
        "language": "python",
    }
    kernel.write_text(json.dumps(spec))
    return unoptimized | {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "connections"),
        "PIP_CONSTRAINT": "",  # of CI
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
    }


Execute = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]


@pytest.fixture(scope="module")
def execute(runtime: dict[str, str], wheel: Path, data_dir: Path) -> Execute:
    """Executes the notebook in a folder, with other settings and more cells.

    It ends after the cell `last`, if one is named.
    """
    originals = ORIGINALS / "mnist"
    data = (
        f"--config.data.manual_dir={originals}"
        if originals.exists()
        else "--config.data.name=mnist5k"
    )
    args = [f"--config.data.data_dir={data_dir}", data, *OVERRIDES]

    def run(
        folder: Path, *more: str, last: str | None = None, **others: Any
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        injected = {"SOURCE": str(wheel), "OVERRIDES": " ".join(args)} | others
        assert set(injected) <= set(settings())
        content = read(NOTEBOOK)
        index = [cell.id for cell in content.cells].index("settings") + 1
        source = "\n".join(f"{name} = {value!r}" for name, value in injected.items())
        content.cells.insert(index, code_cell(source, id="injected"))
        if last is not None:
            names = [cell.id for cell in content.cells]
            del content.cells[names.index(last) + 1 :]
        content.cells += map(code_cell, more)
        return run_cells(content, folder, runtime)

    return run


def run_cells(
    content: Any, folder: Path, environment: dict[str, str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Executes a notebook in a folder and returns its cells, by name."""
    path = folder / "executed.ipynb"
    nbformat.write(content, path)
    finished = subprocess.run(
        [
            Path(sys.executable).with_name("jupyter-execute"),
            *("--inplace", "--timeout=300", path),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    return finished, {cell.id: cell for cell in read(path).cells}


def printed(cell: Any) -> str:
    """The text that a cell printed."""
    return "".join(
        output.text for output in cell.outputs if output.output_type == "stream"
    )


def images_of(cell: Any) -> list[str]:
    """The PNGs that a cell shows, in base 64."""
    shown = [output.data for output in cell.outputs if "data" in output]
    assert all(list(data) == ["image/png", "text/plain"] for data in shown)
    return [data["image/png"] for data in shown]


@pytest.fixture(scope="module")
def executed(
    tmp_path_factory: pytest.TempPathFactory, execute: Execute
) -> tuple[Path, dict[str, Any]]:
    """A folder in which the notebook was executed, and the executed cells."""
    folder = tmp_path_factory.mktemp("content")
    finished, cells = execute(folder, INSPECTION, KEEP_ON_DRIVE=True)
    assert finished.returncode == 0, finished.stderr
    return folder, cells


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
    for cell in cells.values():
        assert cell.cell_type != "code" or cell.execution_count
    assert "This is not Colab" in printed(cells["keeping"])
    assert re.search(r"devices .* x cpu\n", printed(cells["devices"]))
    trained = printed(cells["train"])
    assert "rnnmnist.evaluate --workdir=" in trained  # the summary's last line
    assert len(images_of(cells["train"])) == 1
    workdir = folder / "runs" / "colab"
    assert logs.read(workdir, logs.Metrics)
    (result,) = (workdir / "evaluation").glob("test-*.json")
    assert str(result) in printed(cells["evaluate"])
    correct = json.loads(result.read_text())["correct"]
    assert f"({correct:,} of" in printed(cells["evaluate"])
    assert "is installed" in printed(cells["install"])
    plots = {path.stem for path in (workdir / "report").glob("*.png")}
    assert len(images_of(cells["report"])) == len(plots) > 1
    assert str(workdir / "report" / "index.html") in printed(cells["report"])


@pytest.mark.slow
def test_the_installation_replaces_nothing_and_the_kernel_imports_no_jax(
    executed: tuple[Path, dict[str, Any]], runtime: dict[str, str]
) -> None:
    _, cells = executed
    found = json.loads(printed(list(cells.values())[-1]))
    assert found["heavy"] == []
    assert Path(runtime["JUPYTER_PATH"]).parent in Path(found["package"]).parents
    assert "jax" in found["before"]
    assert found["after"] == found["before"]


@pytest.mark.slow
def test_the_notebook_resumes_a_run(
    executed: tuple[Path, dict[str, Any]], execute: Execute, tmp_path: Path
) -> None:
    """From the newest checkpoint of a killed run, with the same metrics."""
    folder, _ = executed
    workdir = tmp_path / "runs" / "colab"
    shutil.copytree(folder / "runs", tmp_path / "runs")
    unbroken = trainer.metrics(workdir)
    trainer.cut_back(workdir, LAST // 2)
    finished, cells = execute(tmp_path, last="train")
    assert finished.returncode == 0, finished.stderr
    assert f"resuming from step {LAST // 2}\n" in printed(cells["train"])
    assert trainer.metrics(workdir) == unbroken


@pytest.mark.slow
def test_the_notebook_fails_when_a_cell_fails(execute: Execute, tmp_path: Path) -> None:
    finished, _ = execute(
        tmp_path, CONFIG="embedded", OVERRIDES="--config.train.learning_rte=0.01"
    )
    assert finished.returncode != 0
    assert "CellExecutionError" in finished.stderr
    (line,) = re.findall(r".*learning_rte: no such setting.*", finished.stderr)
    assert line.startswith("error: --config.train.learning_rte")
    assert not (tmp_path / "runs").exists()


# Runs cells as a kernel does, and prints what a kernel shows of an exception.
SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell._showtraceback = lambda kind, error, lines: print(*lines, file=sys.stderr)
for source in json.load(sys.stdin):
    if not shell.run_cell(source).success:
        sys.exit(1)
"""


def install(
    folder: Path, runtime: dict[str, str], source: str
) -> subprocess.CompletedProcess[str]:
    """Executes the cells with settings and the installation, in a folder."""
    sources = [cells()["settings"].source, f"SOURCE = {source!r}"]
    return subprocess.run(
        [Path(runtime["JUPYTER_PATH"]).parent / "venv/bin/python", "-c", SHELL],
        cwd=folder,
        env=runtime,
        input=json.dumps([*sources, cells()["install"].source]),
        capture_output=True,
        text=True,
        timeout=120,
    )


def install_error(finished: subprocess.CompletedProcess[str]) -> str:
    """Returns what a failed installation shows: the output of pip."""
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: pip cannot install ")
    assert "Traceback" not in finished.stderr
    return finished.stderr


def write_wheel(folder: Path, name: str, version: str, *metadata: str) -> Path:
    """Writes a wheel that contains metadata only."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata)
    with zipfile.ZipFile(path, "w") as file:
        for member, text in {
            "METADATA": "\n".join(lines) + "\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            file.writestr(f"{name}-{version}.dist-info/{member}", text)
    return path


@pytest.mark.slow
def test_the_package_is_installed_from_a_git_repository(
    runtime: dict[str, str], tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    no_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "rnnmnist", clone / "rnnmnist", ignore=no_cache)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]:
        shutil.copytree(REPOSITORY / path, clone / path, dirs_exist_ok=True)
    for path in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / path, clone)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=clone, check=True)
    finished = install(
        tmp_path,
        runtime | {"PIP_NO_BUILD_ISOLATION": "0"},  # the backend is installed
        f"git+file://localhost{clone}",
    )
    assert finished.returncode == 0, finished.stderr
    assert "rnnmnist is installed; no other package was changed" in finished.stdout


@pytest.mark.slow
def test_git_asks_for_no_password(runtime: dict[str, str], tmp_path: Path) -> None:
    """Neither on a terminal nor with a program, as some editors set one."""

    class Private(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    program = tmp_path / "ask"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    program.chmod(0o755)
    variables = {"NO_PROXY": "*", "no_proxy": "*", "GIT_ASKPASS": str(program)}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Private) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"git+http://127.0.0.1:{server.server_port}/private"
        error = install_error(install(tmp_path, runtime | variables, source))
        server.shutdown()
    assert "terminal prompts disabled" in error
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_an_outdated_runtime_is_not_changed(
    runtime: dict[str, str], wheel: Path, tmp_path: Path
) -> None:
    """The installation fails, although pip could install a newer version."""
    write_wheel(tmp_path, "optax", "99")
    (site_packages,) = Path(runtime["JUPYTER_PATH"]).parent.glob("venv/lib/*/site-*")
    old = site_packages / "optax-0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.1\n")
    (old / "RECORD").write_text("")
    try:
        environment = runtime | {"PIP_FIND_LINKS": str(tmp_path)}
        finished = install(tmp_path, environment, str(wheel))
    finally:
        left = sorted(path.name for path in site_packages.glob("optax-*"))
        shutil.rmtree(old, ignore_errors=True)
    assert re.search(
        r"rnnmnist.* depends on optax>=.*\(constraint\) optax==0\.1",
        install_error(finished),
        re.DOTALL,
    )
    assert left == [old.name]
