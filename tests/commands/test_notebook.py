"""The notebook as it is stored, and `rnnmnist.notebook`."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import nbformat
import pytest
import trainer
from colab_notebook import NOTEBOOK, cells, settings
from support import REPOSITORY, UNOPTIMIZED, run_python

from rnnmnist import notebook
from rnnmnist.errors import UserError
from rnnmnist.reporting import plots
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.workdir import lock

SHORT = {"step": 1, "split": "train", "loss": 2.3, "accuracy": 0.1}
SHORT |= {"correct": 5, "examples": 50}


def test_the_notebook_is_stored_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text())
    nbformat.validate(content)
    for cell in content["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_the_kernel_imports_no_jax() -> None:
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "print({'jax', 'numpy', 'IPython', 'matplotlib'} & set(sys.modules))"
    )
    assert run_python("-c", program).stdout == "set()\n"


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


def test_a_failed_command_is_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(notebook.CommandError) as caught:
        notebook.run("main", "--config.train.learning_rte=0.01")
    assert caught.value.exit_code == 2
    message = "rnnmnist.main failed with exit code 2"
    assert caught.value._render_traceback_() == [str(caught.value)] == [message]
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith("error: --config.train.learning_rte: no such setting; ")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images that the notebook displays, first or in place of others."""
    images: list[Any] = []
    handle = SimpleNamespace(update=images.append)

    def display(image: Any, display_id: bool) -> Any:
        images.append(image)
        return handle

    monkeypatch.setattr("IPython.display.Image", lambda image, retina: image)
    monkeypatch.setattr("IPython.display.display", display)
    return images


@pytest.mark.parametrize(
    "metrics",
    [
        [SHORT, SHORT | {"step": 2, "loss": float("nan")}],
        [SHORT, SHORT | {"split": "validation", "loss": 0.0, "correct": 50}],
        [SHORT | {"split": "validation", "loss": float("inf")}],
    ],
    ids=["not finite", "nothing wrong", "only infinite"],
)
def test_any_metrics_can_be_plotted(
    tmp_path: Path, metrics: list[dict[str, Any]], shown: list[bytes]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in metrics))
    notebook.draw_curves(tmp_path, None)
    (image,) = shown
    assert image.startswith(b"\x89PNG")
    width, height = (int.from_bytes(image[k : k + 4], "big") for k in (16, 20))
    assert (width, height) == (960, 920)


def test_curves_are_updated_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: list[Any]
) -> None:
    """An incomplete line of metrics is ignored."""
    monkeypatch.setattr(plots, "learning_curves", lambda metrics: metrics)
    path = tmp_path / "metrics.jsonl"
    assert notebook.draw_curves(tmp_path, None) is None
    path.write_text('{"step": 1}\n')
    assert notebook.draw_curves(tmp_path, None) is None
    assert shown == []
    path.write_text(json.dumps(SHORT) + "\n" + json.dumps(SHORT)[:20])
    handle = notebook.draw_curves(tmp_path, None)
    assert notebook.draw_curves(tmp_path, handle) is handle
    metrics = [msgspec.convert(SHORT, Metrics)]
    assert shown == [metrics, metrics]


def test_a_failed_plot_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[Metrics]) -> bytes:
        raise ValueError("no font\nat all")

    monkeypatch.setattr(plots, "learning_curves", fail)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(SHORT) + "\n")
    notebook.draw_curves(tmp_path, None)
    line = "the curves cannot be drawn: ValueError: no font\n"
    assert capsys.readouterr().out == line


def start(run: trainer.Run, every: int, until: str) -> subprocess.Popen[str]:
    """A process that trains as a kernel does, after it has printed a text."""
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "try: notebook.run('main', *sys.argv[1:])\n"
        "except notebook.CommandError as error:\n"
        "    sys.exit(error.exit_code)"
    )
    endless = (*trainer.ENDLESS, f"--config.train.log_every_steps={every}")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *run.arguments(*endless)],
        env=run.environment | UNOPTIMIZED,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Jupyter signals the kernel's whole group
    )
    assert process.stdout is not None
    assert any(until in line for line in process.stdout)
    return process


@pytest.mark.slow
def test_an_interrupt_saves(new_run: trainer.Run) -> None:
    process = start(new_run, every=7, until="loss")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    saved = re.search(r"stopped: saved step (\d+) of", output)
    assert saved is not None
    assert (new_run.workdir / saved[1] / "params").is_dir()


@pytest.mark.slow
def test_a_second_interrupt_kills(new_run: trainer.Run) -> None:
    """Long before the next event."""
    logging = new_run.environment | {"JAX_LOG_COMPILES": "1"}
    compiled = "Finished XLA compilation of jit(train_steps)"
    process = start(new_run._replace(environment=logging), 10**6, until=compiled)
    time.sleep(1)  # the call starts
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGKILL
    with lock(new_run.workdir):
        pass


@pytest.mark.slow
def test_training_ends_if_the_kernel_is_killed(new_run: trainer.Run) -> None:
    process = start(new_run, every=7, until="loss")
    process.kill()
    process.communicate()
    for _ in range(300):
        try:
            with lock(new_run.workdir):
                return
        except UserError:  # the trainer still holds the lock
            time.sleep(0.1)
    pytest.fail("the trainer outlived its kernel")
