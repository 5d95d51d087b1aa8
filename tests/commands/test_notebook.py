"""The notebook, executed as it is, and `rnnmnist.notebook`."""

import ast
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import runs
from accelerators import is_colab
from support import ORIGINALS, REPOSITORY

from rnnmnist import notebook
from rnnmnist.config.files import find_config, load_config
from rnnmnist.data import embedded
from rnnmnist.data.builder import FILES, VALIDATION_EXAMPLES, read_idx
from rnnmnist.errors import UserError
from rnnmnist.evaluation.metrics import Metrics
from rnnmnist.reporting import plots
from rnnmnist.runtime.workdir import MetricsFile, lock

NOTEBOOK = REPOSITORY / "notebooks" / "colab.ipynb"
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
SHORT = {"step": 1, "split": "train", "loss": 2.3, "correct": 5, "examples": 50}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cell(source: str, **fields: str) -> Any:
    return nbformat.v4.new_code_cell(source, **fields)


def cells() -> dict[str, Any]:
    return {cell.id: cell for cell in read(NOTEBOOK).cells}


def code() -> list[str]:
    return [cell.source for cell in cells().values() if cell.cell_type == "code"]


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
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    for cell in content["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert re.fullmatch(r"[a-z-]+", cell["id"])  # a name, not a random number


def test_the_kernel_does_not_import_or_pin_jax() -> None:
    imported = {
        name.split(".")[0]
        for source in code()
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    standard = {"os", "re", "subprocess", "sys", "time", "pathlib", "shlex"}
    assert imported == standard | {"rnnmnist", "google"}
    assert not re.search(r"jax|[=<>~]=\s*\d", "\n".join(code()))
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "print({'jax', 'numpy', 'IPython', 'matplotlib'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert finished.stdout == "set()\n"


def test_a_run_is_stored_on_drive_in_colab(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a stand-in for Colab's package."""
    mounted: list[str] = []
    drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    names = {"Path": Path, "WORKDIR": "runs/colab", "KEEP_ON_DRIVE": True}
    exec(cells()["keeping"].source, names)
    assert mounted == ["/content/drive"]
    assert names["workdir"] == Path("/content/drive/MyDrive/rnnmnist/runs/colab")


def test_a_drive_that_cannot_be_mounted_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a stand-in for Colab's package, and for the notebook's exception."""

    def refuse(_: str) -> None:
        raise RuntimeError("credential propagation was unsuccessful")

    drive = SimpleNamespace(mount=refuse)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    names = {"Path": Path, "WORKDIR": "runs/colab", "KEEP_ON_DRIVE": True}
    message = (
        r"Drive cannot be mounted \(credential .*\); run the cell again and permit it"
    )
    with pytest.raises(LookupError, match=message):
        exec(cells()["keeping"].source, names | {"CellError": LookupError})


def test_overrides_that_cannot_be_parsed_are_an_error() -> None:
    """With a stand-in for the notebook's exception."""
    names = {
        "CONFIG": "default",
        "OVERRIDES": "--a='1",
        "CellError": KeyError,
    }
    with pytest.raises(KeyError, match="OVERRIDES: No closing quotation in --a"):
        exec(cells()["devices"].source, names)


def test_uploaded_images_are_classified(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Colab's package."""
    files = SimpleNamespace(upload=lambda: {"a.png": b"", "b.png": b""})
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(files=files))
    calls: list[tuple[str, ...]] = []
    commands = SimpleNamespace(run=lambda *args: calls.append(args))
    names = {"notebook": commands, "workdir": Path("runs/colab")}
    exec(cells()["own-digit"].source, names)
    assert calls == [("predict", "--workdir=runs/colab", "a.png", "b.png")]


def project() -> dict[str, Any]:
    """The content of `pyproject.toml`."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_all_links_name_one_repository() -> None:
    repository = project()["project"]["urls"]["Repository"]
    assert settings()["SOURCE"] == f"git+{repository}"
    path = NOTEBOOK.relative_to(REPOSITORY)
    owner_and_name = repository.removeprefix("https://github.com/")
    link = f"colab.research.google.com/github/{owner_and_name}/blob/main/{path}"
    assert f"(https://{link})" in (REPOSITORY / "README.md").read_text().split("##")[0]
    assert f"(https://{link})" in cells()["title"].source


def shipped() -> set[str]:
    """The shipped configurations that need no data of the user's own."""
    names = {path.stem for path in (REPOSITORY / "configs").glob("*.py")}
    return names - {"files"}


def test_the_form_offers_the_shipped_configurations() -> None:
    offered = re.search(r"CONFIG = .*# @param (\[.*\])", cells()["settings"].source)
    assert offered is not None
    assert sorted(json.loads(offered[1])) == sorted(shipped())
    assert settings()["CONFIG"] in shipped()


def results(name: str) -> Any:
    return json.loads((REPOSITORY / "results" / f"{name}.json").read_text())


def test_the_expected_durations_are_those_of_the_result_files() -> None:
    text = cells()["about-settings"].source
    _, _, cpu, *accelerators = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    recipes = ("default", "large_batch")
    hardware = {results(name)["hardware"] for name in recipes}
    minutes = [f"{results(name)['seconds'] / 60:.1f} minutes" for name in recipes]
    assert cpu == [f"CPU, {hardware.pop()}", *minutes]
    compiled = {
        (row["target"], row["batch_size"]): row["compile_seconds"]
        for row in results("accelerators")
        if (row["program"], row["devices"], row["num_seeds"]) == ("train", 1, 1)
        and set(row["settings"]) <= {"train.batch_size=1024"}
        and (row["target"] != "v5e" or is_colab(row))
    }
    batches = [load_config(find_config(name)).train.batch_size for name in recipes]
    assert batches == [128, 1024]
    for device, *durations in accelerators:
        seconds = [compiled.pop((device.split()[1].lower(), size)) for size in batches]
        assert durations == [f"not measured, compiles in {s} s" for s in seconds]
    assert not compiled
    others = dict(re.findall(r"`(\w+)`(?:\s+takes)?\s+([\d.]*\d)", text))
    assert set(others) == {*shipped()} - {*recipes}
    for name, stated in others.items():
        decimals = len(stated.partition(".")[2])
        assert f"{results(name)['seconds'] / 60:.{decimals}f}" == stated


def test_the_cycles_of_large_batches_are_those_of_the_result_file() -> None:
    """Of a whole run: cycles of a step times steps, with Colab's versions."""
    cycles = {
        row["batch_size"]: row["estimated_cycles"]
        for row in results("accelerators")
        if is_colab(row)
        and (row["program"], row["devices"], row["num_seeds"]) == ("train", 1, 1)
        and set(row["settings"]) <= {"train.batch_size=1024"}
    }
    default, large = (
        load_config(find_config(name)).train for name in ("default", "large_batch")
    )
    ratio = (cycles[large.batch_size] * large.num_steps) / (
        cycles[default.batch_size] * default.num_steps
    )
    assert 0.6 < ratio < 2 / 3
    assert "less than two thirds of the cycles" in " ".join(
        cells()["about-settings"].source.split()
    )


def test_a_failed_command_raises_its_error_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(notebook.CommandError) as caught:
        notebook.run("main", "--config.train.learning_rte=0.01")
    line = "error: --config.train.learning_rte: no such setting; did you mean"
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(line)
    assert str(caught.value).endswith("(rnnmnist.main, exit code 2)")
    assert caught.value._render_traceback_() == [str(caught.value)]
    assert capsys.readouterr().out == ""  # the exception's text is the only line
    assert signal.getsignal(signal.SIGINT) is before


def test_only_the_last_error_is_left_to_the_exception(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [str(tmp_path / name) for name in ("a.png", "b.png")]
    with pytest.raises(notebook.CommandError, match=r"b\.png: cannot be read"):
        notebook.run("predict", *missing)
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith(f"error: {missing[0]}: cannot be read")


def test_the_image_to_read_is_in_no_training_split(originals: Path) -> None:
    """It is in the test split of the shipped images and in MNIST's validation split."""
    images, labels = embedded.splits()["test"]
    path = originals / "mnist" / FILES["train"][0]
    validation = read_idx(path, rank=3)[:VALIDATION_EXAMPLES]
    image = images[labels == notebook.DIGIT][0]
    assert (validation == image).all((1, 2)).any()


@pytest.mark.parametrize(
    "metrics",
    [
        [SHORT],
        [SHORT, SHORT | {"step": 2, "loss": float("nan")}],
        [SHORT, SHORT | {"split": "validation", "loss": 0.0, "correct": 50}],
        [SHORT | {"split": "validation", "loss": float("inf")}],
    ],
    ids=["one", "not finite", "nothing wrong", "only infinite"],
)
def test_any_metrics_can_be_plotted(
    tmp_path: Path, metrics: list[dict[str, Any]]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in metrics))
    image = notebook.plot_curves(path)
    assert image is not None
    assert image.startswith(b"\x89PNG")
    width, height = (int.from_bytes(image[k : k + 4], "big") for k in (16, 20))
    assert (width, height) == (960, 920)


def test_an_incomplete_line_of_metrics_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[Metrics]] = []

    def draw(metrics: list[Metrics]) -> bytes:
        drawn.append(metrics)
        return b"PNG"

    monkeypatch.setattr(plots, "learning_curves", draw)
    path = tmp_path / "metrics.jsonl"
    curves = notebook.Curves(path)
    curves.draw()
    path.write_text('{"step": 1}\n')
    curves.draw()
    assert drawn == []
    path.write_text(json.dumps(SHORT) + "\n" + json.dumps(SHORT)[:20])
    monkeypatch.setattr("IPython.display.Image", lambda *_, **__: None)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    curves.draw_if_due()
    curves.draw_if_due()  # a moment later, so it is not
    assert drawn == [[Metrics.from_dict(SHORT)]]


def test_a_failed_plot_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[Metrics]) -> bytes:
        raise ValueError("no font\nat all")

    monkeypatch.setattr(plots, "learning_curves", fail)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(SHORT) + "\n")
    notebook.Curves(path).draw()
    line = "the curves cannot be drawn: ValueError: no font\n"
    assert capsys.readouterr().out == line


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
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
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
    return environment | {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "connections"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
    }


Execute = Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]


@pytest.fixture(scope="module")
def execute(runtime: dict[str, str], wheel: Path, data_dir: Path) -> Execute:
    """Executes the notebook in a folder, with other settings and more cells."""
    originals = ORIGINALS / "mnist"
    data = (
        f"--config.data.manual_dir={originals}"
        if originals.exists()
        else "--config.data.name=mnist5k"
    )
    args = [f"--config.data.data_dir={data_dir}", data, *OVERRIDES]

    def run(
        folder: Path, *more: str, environment: dict[str, str] = runtime, **others: Any
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        injected = {"SOURCE": str(wheel), "OVERRIDES": " ".join(args)} | others
        assert set(injected) <= set(settings())
        content = read(NOTEBOOK)
        index = [cell.id for cell in content.cells].index("settings") + 1
        source = "\n".join(f"{name} = {value!r}" for name, value in injected.items())
        content.cells.insert(index, code_cell(source, id="injected"))
        content.cells += map(code_cell, more)
        return run_cells(content, folder, environment)

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
def test_the_readme_in_a_wheel_has_absolute_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        links = re.findall(r"\]\(([^)]+)\)", file.read(name).decode())
    assert len(links) > 20
    assert all(link.startswith("https://") for link in links)


@pytest.mark.slow
def test_the_tutorial_can_be_executed_on_a_wheel(
    runtime: dict[str, str], wheel: Path, tmp_path: Path
) -> None:
    """Up to the exercises, with fewer steps; the documentation build runs it all."""
    content = read(REPOSITORY / "notebooks" / "tutorial.ipynb")
    (end,) = (
        index
        for index, cell in enumerate(content.cells)
        if cell.source.startswith("## Exercises") or "\n## Exercises" in cell.source
    )
    content.cells = content.cells[:end]
    source, *others = (cell for cell in content.cells if cell.cell_type == "code")
    assert source.source.startswith("SOURCE = ")
    source.source = f"SOURCE = {str(wheel)!r}"
    for cell in others:
        cell.source = re.sub(r"\b([34])00\b", r"\g<1>0", cell.source)
    finished, executed = run_cells(content, tmp_path, runtime)
    assert finished.returncode == 0, finished.stderr
    code = [cell for cell in executed.values() if cell.cell_type == "code"]
    output = "".join(map(printed, code))
    assert "test images are classified correctly" in output
    assert output.count("False") == 1  # of the network that distinguishes two words
    assert sum(map(len, map(images_of, code))) == 2


@pytest.mark.slow
@pytest.mark.smoke
def test_the_notebook_can_be_executed(executed: tuple[Path, dict[str, Any]]) -> None:
    folder, cells = executed
    for cell in cells.values():
        assert cell.cell_type != "code" or cell.execution_count
    assert "This is not Colab" in printed(cells["keeping"])
    assert re.search(
        r"devices .* x cpu \(.*\); no accelerator: a run uses the CPU",
        printed(cells["devices"]),
    )
    trained = printed(cells["train"])
    assert "rnnmnist.evaluate --workdir=" in trained  # the summary's last line
    assert len(images_of(cells["train"])) == 1
    workdir = folder / "runs" / "colab"
    assert [line["step"] for line in MetricsFile.read(workdir / "metrics.jsonl")]
    (result,) = (workdir / "evaluation").glob("test-*.json")
    assert str(result) in printed(cells["evaluate"])
    correct = json.loads(result.read_text())["correct"]
    assert f"({correct} of" in printed(cells["evaluate"])
    assert printed(cells["install"]).count("\r") > 1  # one line, which changes
    assert "\n" not in printed(cells["install"])
    assert "is installed" in printed(cells["install"])
    plots = {path.stem for path in (workdir / "report").glob("*.png")}
    light = {name for name in plots if not name.endswith("-dark")}
    assert len(images_of(cells["report"])) == len(light) == len(plots) / 2 > 1
    assert str(workdir / "report" / "index.html") in printed(cells["report"])
    assert re.search(rf"a_{notebook.DIGIT}\.png: \d, ", printed(cells["digit"]))
    assert len(images_of(cells["digit"])) == 1


@pytest.mark.slow
@pytest.mark.smoke
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
    unbroken = runs.metrics(workdir)
    runs.cut_back(workdir, LAST // 2)
    finished, cells = execute(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert f"resuming from step {LAST // 2}\n" in printed(cells["train"])
    assert runs.metrics(workdir) == unbroken


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
    folder: Path, runtime: dict[str, str], source: str | None
) -> subprocess.CompletedProcess[bytes]:
    """Executes the cells with settings and the installation, in a folder."""
    sources = [cells()["settings"].source, cells()["install"].source]
    if source is not None:
        sources.insert(1, f"SOURCE = {source!r}")
    return subprocess.run(
        [Path(runtime["JUPYTER_PATH"]).parent / "venv/bin/python", "-c", SHELL],
        cwd=folder,
        env=runtime,
        input=json.dumps(sources).encode(),
        capture_output=True,  # as bytes: text would have no carriage returns
        timeout=120,
    )


def install_error(finished: subprocess.CompletedProcess[bytes]) -> str:
    """Returns the only line that a failed installation shows, besides its progress."""
    assert finished.returncode == 1
    assert b"\n" not in finished.stdout
    assert all(len(line) <= 80 for line in finished.stdout.decode().split("\r"))
    (line,) = finished.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


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


@pytest.fixture(scope="module")
def git_server() -> Iterator[str]:
    """The address of a server on which repositories are private or do not exist.

    GitHub asks for a name and password in both cases.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401 if self.path.startswith("/private") else 404)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


NO_INDEX = {"PIP_NO_INDEX": "0", "PIP_RETRIES": "1"}
REPOSITORY_OR_WHEEL = "enter git+URL of the repository as SOURCE, or upload a wheel"
CHANGE_RUNTIME = "on Colab, choose another version or type under Runtime → Change"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "variables", "cause", "remedy"),
    [
        (
            "git+{server}/private",
            {},
            "SOURCE: {source} does not exist or is private",
            REPOSITORY_OR_WHEEL,
        ),
        (
            "git+{server}/nowhere",
            {},
            "SOURCE: {source} does not exist or is private",
            REPOSITORY_OR_WHEEL,
        ),
        (None, {}, "no network (Failed to connect)", "connect this machine"),
        (
            "git+http://nowhere.invalid/a",
            {"NO_PROXY": "*", "no_proxy": "*"},
            "no network (Could not resolve)",
            "connect this machine",
        ),
        (
            "needs_more/rnnmnist-1-py3-none-any.whl",
            NO_INDEX,
            "no network (connection broken)",
            "connect this machine",
        ),
        (
            None,
            {"PATH": "/nowhere"},
            "git is not installed",
            "install it, or upload a wheel",
        ),
        (
            "rnnmnist-9-py3-none-any.whl",
            {},
            "SOURCE: there is no {folder}/rnnmnist-9-py3-none-any.whl",
            REPOSITORY_OR_WHEEL,
        ),
        (
            "damaged/rnnmnist-1-py3-none-any.whl",
            {},
            "SOURCE: {source} is damaged or is not rnnmnist",
            REPOSITORY_OR_WHEEL,
        ),
        (
            "other-1-py3-none-any.whl",
            {},
            "SOURCE: {source} is damaged or is not rnnmnist",
            REPOSITORY_OR_WHEEL,
        ),
        (
            "new/rnnmnist-1-py3-none-any.whl",
            {},
            "rnnmnist needs Python >=3.99, but this runtime has 3.",
            CHANGE_RUNTIME,
        ),
        (
            "damaged",
            {},
            "SOURCE: {source} is damaged or is not rnnmnist",
            REPOSITORY_OR_WHEEL,
        ),
        (
            "project",
            {},
            "pip: No matching distribution found for nothing",
            "!cat {folder}/pip-log.txt prints its whole output",
        ),
    ],
    ids=[
        *("private", "repository", "network", "name", "index", "git", "upload"),
        *("damaged", "other", "python", "folder", "unknown"),
    ],
)
def test_a_failed_installation_is_one_line_with_cause_and_remedy(
    runtime: dict[str, str],
    git_server: str,
    tmp_path: Path,
    source: str | None,
    variables: dict[str, str],
    cause: str,
    remedy: str,
) -> None:
    for name in ("new", "damaged", "needs_more", "project"):
        (tmp_path / name).mkdir()
    project = '[build-system]\nrequires = ["nothing"]\nbuild-backend = "nothing"\n'
    (tmp_path / "project" / "pyproject.toml").write_text(project)
    write_wheel(tmp_path, "other", "1")
    write_wheel(tmp_path / "new", "rnnmnist", "1", "Requires-Python: >=3.99")
    wheel = write_wheel(tmp_path / "needs_more", "rnnmnist", "1", "Requires-Dist: zzz")
    (tmp_path / "damaged" / wheel.name).write_bytes(wheel.read_bytes()[:-9])
    local = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    if source is not None:
        source = source.format(server=git_server)
    line = install_error(install(tmp_path, runtime | local | variables, source))
    for part in (cause, remedy):
        assert part.format(source=source, folder=tmp_path) in line


@pytest.mark.slow
def test_the_package_is_installed_from_a_git_repository(
    runtime: dict[str, str], tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    no_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "rnnmnist", clone / "rnnmnist", ignore=no_cache)
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    for path in wheel["force-include"]:
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
    *_, last = finished.stdout.decode().split("\r")
    assert re.match(
        r" +\d+ s  rnnmnist is installed; no other package was changed", last
    )


@pytest.mark.slow
def test_git_asks_for_no_password(
    runtime: dict[str, str], git_server: str, tmp_path: Path
) -> None:
    """Neither on a terminal nor with a program, as some editors set one."""
    program = tmp_path / "ask"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    program.chmod(0o755)
    variables = {"NO_PROXY": "*", "no_proxy": "*", "GIT_ASKPASS": str(program)}
    install_error(install(tmp_path, runtime | variables, f"git+{git_server}/private"))
    assert "terminal prompts disabled" in (tmp_path / "pip-log.txt").read_text()
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
    line = install_error(finished)
    assert re.match(
        r"rnnmnist\S* \S+ needs optax>=[\d.]+, but .* has optax 0\.1;", line
    )
    assert CHANGE_RUNTIME in line
    assert left == [old.name]


def start(
    environment: dict[str, str], workdir: Path, data_dir: Path, every: int, until: str
) -> subprocess.Popen[str]:
    """A process that trains as a kernel does, after it has printed a text."""
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "try: notebook.run('main', *sys.argv[1:])\n"
        "except notebook.CommandError as error:\n"
        "    print(error, flush=True)\n"
        "    sys.exit(error.exit_code)"
    )
    endless = (
        "--config.train.num_steps=1000000",
        f"--config.train.log_every_steps={every}",
        "--config.train.eval_every_steps=1000000",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *runs.arguments(workdir, data_dir, *endless)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Jupyter signals the kernel's whole group
    )
    assert process.stdout is not None
    assert any(until in line for line in process.stdout)
    return process


@pytest.mark.slow
def test_an_interrupt_saves(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    process = start(environment, workdir, data_dir, every=7, until="loss")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    saved = re.search(r"stopped: saved step (\d+) of", output)
    assert saved is not None
    assert (workdir / saved[1] / "params").is_dir()


@pytest.mark.slow
def test_a_second_interrupt_kills(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """In a compiled call that would run for minutes."""
    workdir = tmp_path / "run"
    process = start(environment, workdir, data_dir, every=10**6, until="parameters")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGKILL
    with lock(workdir):
        pass


@pytest.mark.slow
def test_training_ends_if_the_kernel_is_killed(
    environment: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    process = start(environment, workdir, data_dir, every=7, until="loss")
    process.kill()
    process.communicate()
    for _ in range(300):
        try:
            with lock(workdir):
                return
        except UserError:  # the trainer still holds the lock
            time.sleep(0.1)
    pytest.fail("the trainer outlived its kernel")
