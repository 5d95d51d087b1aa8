"""The notebook as it is stored, and `rnnmnist.notebook`."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import nbformat
import pytest
import trainer
from accelerators import is_colab
from colab_notebook import NOTEBOOK, cells, settings
from support import REPOSITORY

from rnnmnist import notebook
from rnnmnist.config.files import find_config, load_config
from rnnmnist.errors import UserError
from rnnmnist.reporting import plots
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.workdir import lock

SHORT = {"step": 1, "split": "train", "loss": 2.3, "accuracy": 0.1}
SHORT |= {"correct": 5, "examples": 50}


def code() -> list[str]:
    return [cell.source for cell in cells().values() if cell.cell_type == "code"]


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
    standard = {"os", "re", "subprocess", "sys", "pathlib", "shlex"}
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


def test_all_links_name_one_repository() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]
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
    stated = dict(re.findall(r"`(\w+)`\s+([\d.]*\d)", text))
    assert set(stated) == shipped()
    for name, minutes in stated.items():
        decimals = len(minutes.partition(".")[2])
        assert f"{results(name)['seconds'] / 60:.{decimals}f}" == minutes
        assert f"on {results(name)['hardware']}, without" in text


def test_the_cycles_of_large_batches_are_those_of_the_result_file() -> None:
    """Of a whole run: cycles of a step times steps, with Colab's versions."""
    cycles = {
        row["batch_size"]: row["estimated_cycles"]
        for row in results("accelerators")
        if is_colab(row)
        and (row["program"], row["devices"], row["num_seeds"]) == ("train", 1, 1)
        and {*row["settings"], *row.get("execution", [])} <= {"train.batch_size=1024"}
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
        [SHORT],
        [SHORT, SHORT | {"step": 2, "loss": float("nan")}],
        [SHORT, SHORT | {"split": "validation", "loss": 0.0, "correct": 50}],
        [SHORT | {"split": "validation", "loss": float("inf")}],
    ],
    ids=["one", "not finite", "nothing wrong", "only infinite"],
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


def start(
    environment: dict[str, str], workdir: Path, data_dir: Path, every: int, until: str
) -> subprocess.Popen[str]:
    """A process that trains as a kernel does, after it has printed a text."""
    program = (
        "import sys\nfrom rnnmnist import notebook\n"
        "try: notebook.run('main', *sys.argv[1:])\n"
        "except notebook.CommandError as error:\n"
        "    sys.exit(error.exit_code)"
    )
    endless = (*trainer.ENDLESS, f"--config.train.log_every_steps={every}")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            *trainer.arguments(workdir, data_dir, *endless),
        ],
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
    """Long before the next event."""
    workdir = tmp_path / "run"
    environment = environment | {"JAX_LOG_COMPILES": "1"}
    compiled = "Finished XLA compilation of jit(train_steps)"
    process = start(environment, workdir, data_dir, every=10**6, until=compiled)
    time.sleep(1)  # the call starts
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
