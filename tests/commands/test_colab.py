"""`notebooks/colab.ipynb`: as it is stored, executed, and with failing cells."""

import ast
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
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from support import REPOSITORY

NOTEBOOK = REPOSITORY / "notebooks" / "colab.ipynb"
OVERRIDES = (
    "--config.data.name=mnist5k",
    "--config.model.hidden_size=16",
    "--config.train.num_steps=40",
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


class CellError(Exception):
    """Stands in for the exception that the first cell defines."""


RunCell = Callable[..., dict[str, Any]]


@pytest.fixture
def run_cell(monkeypatch: pytest.MonkeyPatch) -> RunCell:
    """Runs a cell with a stand-in for Colab's package; returns the cell's names."""

    def run(cell: str, colab: dict[str, Any], **names: Any) -> dict[str, Any]:
        monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(**colab))
        names |= {"Path": Path, "CellError": CellError}
        exec(cells()[cell].source, names)
        return names

    return run


def test_a_run_is_stored_on_drive_in_colab(run_cell: RunCell) -> None:
    mounted: list[str] = []
    colab = {"drive": SimpleNamespace(mount=mounted.append)}
    names = run_cell("keeping", colab, WORKDIR="runs/colab", KEEP_ON_DRIVE=True)
    assert mounted == ["/content/drive"]
    assert names["workdir"] == Path("/content/drive/MyDrive/rnnmnist/runs/colab")


def test_a_drive_that_cannot_be_mounted_is_an_error(run_cell: RunCell) -> None:
    def refuse(_: str) -> None:
        raise RuntimeError("credential propagation was unsuccessful")

    colab = {"drive": SimpleNamespace(mount=refuse)}
    with pytest.raises(CellError, match=r"KEEP_ON_DRIVE: .* \(credential propagation"):
        run_cell("keeping", colab, WORKDIR="runs/colab", KEEP_ON_DRIVE=True)


def test_overrides_that_cannot_be_parsed_are_an_error(run_cell: RunCell) -> None:
    with pytest.raises(CellError, match="OVERRIDES: No closing quotation in --a"):
        run_cell("devices", {}, CONFIG="default", OVERRIDES="--a='1")


def test_uploaded_images_are_classified(run_cell: RunCell) -> None:
    files = SimpleNamespace(upload=lambda: {"a.png": b"", "b.png": b""})
    calls: list[tuple[str, ...]] = []
    commands = SimpleNamespace(run=lambda *args: calls.append(args))
    run_cell("own-digit", {"files": files}, notebook=commands, workdir="runs/colab")
    assert calls == [("predict", "--workdir=runs/colab", "a.png", "b.png")]


def test_all_links_name_one_repository() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]
    assert settings()["SOURCE"] == f"git+{repository}"
    path = NOTEBOOK.relative_to(REPOSITORY)
    owner_and_name = repository.removeprefix("https://github.com/")
    link = f"colab.research.google.com/github/{owner_and_name}/blob/main/{path}"
    assert f"(https://{link})" in (REPOSITORY / "README.md").read_text().split("##")[0]
    assert f"(https://{link})" in cells()["title"].source


def test_the_form_offers_the_shipped_configurations_with_their_durations() -> None:
    paths = (REPOSITORY / "configs").glob("*.py")
    shipped = sorted({path.stem for path in paths} - {"files"})  # of the user's data
    offered = re.search(r"CONFIG = .*# @param (\[.*\])", cells()["settings"].source)
    assert offered is not None
    assert json.loads(offered[1]) == shipped
    assert settings()["CONFIG"] in shipped
    stated = re.findall(r"`(\w+)`\s+([\d.]*\d)", cells()["about-settings"].source)
    assert sorted(name for name, _ in stated) == shipped
    for name, minutes in stated:
        path = REPOSITORY / "results" / f"{name}.json"
        seconds = json.loads(path.read_text())["seconds"]
        decimals = len(minutes.partition(".")[2])
        assert f"{seconds / 60:.{decimals}f}" == minutes


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
    flags = (f"--config.data.data_dir={data_dir}", *OVERRIDES)
    injected = {
        "SOURCE": f"git+file://localhost{committed}",
        "OVERRIDES": " ".join(flags),
        "KEEP_ON_DRIVE": True,
    }
    assert set(injected) <= set(settings())
    source = "\n".join(f"{name} = {value!r}" for name, value in injected.items())
    content = read(NOTEBOOK)
    index = [cell.id for cell in content.cells].index("settings") + 1
    content.cells.insert(index, nbformat.v4.new_code_cell(source))
    content.cells.append(nbformat.v4.new_code_cell(INSPECTION, id="inspection"))
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
    assert str(result) in printed(cells["evaluate"])
    plots = list((workdir / "report").glob("*.png"))
    assert num_images(cells["report"]) == len(plots) > 1


@pytest.mark.slow
def test_the_installation_replaces_nothing_and_the_kernel_imports_no_jax(
    executed: tuple[Path, dict[str, Any]], runtime: dict[str, str]
) -> None:
    _, cells = executed
    found = json.loads(printed(cells["inspection"]))
    assert found["heavy"] == []
    assert Path(runtime["JUPYTER_PATH"]).parent in Path(found["package"]).parents
    assert "jax" in found["before"]
    assert found["after"] == found["before"]


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


def failed_install(folder: Path, runtime: dict[str, str], source: str) -> str:
    """Executes the installation of a source that fails; returns what is shown."""
    sources = [cells()["settings"].source, f"SOURCE = {source!r}"]
    finished = subprocess.run(
        [Path(runtime["JUPYTER_PATH"]).parent / "venv/bin/python", "-c", SHELL],
        cwd=folder,
        env=runtime,
        input=json.dumps([*sources, cells()["install"].source]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: pip cannot install ")
    assert "Traceback" not in finished.stderr
    return finished.stderr


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
        error = failed_install(tmp_path, runtime | variables, source)
        server.shutdown()
    assert "terminal prompts disabled" in error
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_an_outdated_runtime_is_not_changed(
    runtime: dict[str, str], wheel: Path, tmp_path: Path
) -> None:
    """The installation fails, although pip could install a newer version."""
    with zipfile.ZipFile(tmp_path / "optax-99-py3-none-any.whl", "w") as file:
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: optax\nVersion: 99\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            file.writestr(f"optax-99.dist-info/{name}", text)
    (site_packages,) = Path(runtime["JUPYTER_PATH"]).parent.glob("venv/lib/*/site-*")
    old = site_packages / "optax-0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.1\n")
    (old / "RECORD").write_text("")
    try:
        variables = runtime | {"PIP_FIND_LINKS": str(tmp_path)}
        error = failed_install(tmp_path, variables, str(wheel))
    finally:
        left = [path.name for path in site_packages.glob("optax-*")]
        shutil.rmtree(old)
    constraint = r"rnnmnist.* depends on optax>=.*\(constraint\) optax==0\.1"
    assert re.search(constraint, error, re.DOTALL)
    assert left == [old.name]
