"""The effects of `fit` on the calling process."""

import contextlib
import functools
import gc
import logging
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import trainer
from jax.sharding import AxisType
from support import (
    INPUTS,
    REPOSITORY,
    file_times,
    fit_small,
    jax_settings,
    run_python,
)

import rnnmnist
from rnnmnist import load
from rnnmnist.errors import UserError
from rnnmnist.runs.checkpoint_files import is_intact
from rnnmnist.runs.workdir import list_steps
from rnnmnist.runtime.compilation import compile_seconds

STEPS = 30
fit = functools.partial(fit_small, num_steps=STEPS)


def process_state() -> dict[str, Any]:
    """Returns state that `fit` might change: threads, handlers, files, settings."""
    gc.collect()  # releases objects of earlier tests
    own = Path("/proc/self")
    files = []
    for link in (own / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing
            files.append(str(link.readlink()))
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "handlers": [signal.getsignal(number) for number in (2, 15)],
        "files": sorted(name for name in files if "/fd" not in name),
        "maps": ".npy" in (own / "maps").read_text(),
        "variables": dict(os.environ),
        "jax": dict(jax.config.values),
        "excepthooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "log filters": [*logging.getLogger("absl").filters],
        "log handlers": [*logging.root.handlers],
    }


def assert_nothing_is_left(before: dict[str, Any]) -> None:
    """Asserts that the process state has not changed.

    Idle Orbax threads end within seconds. Threads of earlier tests may have ended.
    """

    def left() -> dict[str, Any]:
        after = process_state()
        after["threads"] -= before["threads"]
        return after

    expected = before | {"threads": set()}
    deadline = time.monotonic() + 10
    while left() != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == expected


def assert_same_end(workdir: Path, reference: Path) -> None:
    """Both folders must have the same name, which is also the name of the data set."""
    trainer.assert_same_end(workdir, reference, STEPS)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that compiles nothing. Its duration is in `seconds.txt`."""
    folder = tmp_path_factory.mktemp("fit")
    fit(folder / "compiled" / "run")
    begin = time.monotonic()
    workdir = fit(folder / "run")
    (folder / "seconds.txt").write_text(str(time.monotonic() - begin))
    return workdir


def outputs(workdir: Path) -> list[Any]:
    """Returns the results of a model's prediction and evaluation methods.

    The model is loaded from a copy because `evaluate` and `report` write to its folder.
    """
    model = load(shutil.copytree(workdir, workdir.parent / "copy" / workdir.name))
    _, probabilities = model.step(model.start(), INPUTS[0, 0])
    return [
        probabilities,
        model.classify(INPUTS),
        model.classify(INPUTS, every_step=True),
        model.occlusion(INPUTS[:3]),
        model.evaluate(),
        model.report().result,
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_jax_settings_do_not_affect_a_run(reference: Path, tmp_path: Path) -> None:
    expected = outputs(reference)
    changes: dict[str, Any] = {
        "jax_enable_x64": True,
        "jax_disable_jit": True,
        "jax_default_prng_impl": "unsafe_rbg",
        "jax_threefry_partitionable": False,
        "jax_random_seed_offset": 7,
        "jax_transfer_guard": "disallow",
        "jax_numpy_dtype_promotion": "strict",
    }
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), jax_settings(changes):
        workdir = fit(tmp_path / "run", placement="host")
        actual_outputs = outputs(workdir)
    assert_same_end(workdir, reference)
    for actual, desired in zip(actual_outputs, expected, strict=True):
        np.testing.assert_array_equal(actual, desired, strict=True)


@pytest.mark.slow
def test_an_interrupted_fit_resumes_to_the_same_result(
    reference: Path, tmp_path: Path, interrupts: list[int]
) -> None:
    """Interrupts arrive at random times during training, validation and saving."""
    seconds = float((reference.parent / "seconds.txt").read_text())
    count = 10
    generator = random.Random(count)
    before, stopped = process_state(), 0
    for number in range(count):
        workdir = tmp_path / str(number) / "run"
        interrupts.clear()
        delay = generator.uniform(0, seconds / 2)
        sender = threading.Timer(delay, os.kill, [os.getpid(), signal.SIGINT])
        sender.start()
        try:
            fit(workdir, placement="host")  # in another thread, too
        except KeyboardInterrupt:
            stopped += 1
        else:
            assert interrupts or sender.is_alive(), "an interrupt was lost"
        sender.join()
        fit(workdir)
        assert_same_end(workdir, reference)
    assert_nothing_is_left(before)
    assert stopped >= count // 3  # other interrupts arrive after the run has ended


def test_fit_prints_nothing_unless_verbose(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warnings go to the user's handlers, or to standard error, as in Python."""
    # `logging.basicConfig` adds such a handler.
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])
    fit(tmp_path / "run")
    fit(tmp_path / "run", num_steps=40)
    assert capfd.readouterr() == ("", "")
    (warning,) = caplog.messages
    assert warning.startswith("train.num_steps was ")
    monkeypatch.setattr(logging.root, "handlers", [])
    fit(tmp_path / "run", num_steps=50, verbose=True)
    printed = capfd.readouterr()
    assert printed.err.startswith("train.num_steps was 40 and is now 50, ")
    assert "resuming from step 40\n" in printed.out


def test_fit_resumes_despite_an_earlier_damaged_header(
    tmp_path: Path, reference: Path
) -> None:
    """The log ends in an incomplete line. A second resumed run compiles nothing."""
    workdir = fit(tmp_path / "run", keep_checkpoints=3)
    trainer.cut_back(workdir, 20)
    (workdir / "10" / "header" / "metadata").write_text("{")
    metrics = workdir / "metrics.jsonl"
    text = metrics.read_text()
    metrics.write_text(text[: text.index('"step": 25')])
    with pytest.raises(UserError, match="belongs to another run"):
        fit(workdir, hidden_size=7)
    assert not list(workdir.glob("damaged-*"))  # a rejected call renames nothing
    fit(workdir, keep_checkpoints=3)
    assert_same_end(workdir, reference)
    assert (workdir / "damaged-10").is_dir()
    trainer.cut_back(workdir, 20)
    before = compile_seconds()
    fit(workdir, keep_checkpoints=3)
    assert compile_seconds() == before


@pytest.mark.slow
def test_fits_in_threads_give_the_same_results_as_a_single_fit(
    tmp_path: Path,
    reference: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Meanwhile, the main thread reads a checkpoint. The fits print nothing."""
    before = process_state()
    workdirs = [tmp_path / name / "run" for name in "ab"]
    threads = [
        threading.Thread(target=fit, args=[workdir], daemon=True)
        for workdir in workdirs
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        assert is_intact(reference / str(STEPS))
    assert_nothing_is_left(before)
    for workdir in workdirs:
        assert_same_end(workdir, reference)
    assert capfd.readouterr() == ("", "")


# A program that configures logging like a service. Its arrays are the same as here.
SERVICE = """
import logging, os, pickle, signal, sys
import numpy as np
import rnnmnist, rnnmnist.errors

logging.basicConfig(level=logging.INFO, format="%(name)s|%(message)s")
labels = np.arange(40) % 2
inputs = np.random.default_rng(0).normal(labels[:, None, None], size=(40, 5, 1))
settings = dict(cell="lstm", hidden_size=4, batch_size=8, num_devices=1)
settings |= dict(log_every_steps=5, eval_every_steps=10)


def fit(num_steps, **others):
    workdir = sys.argv[1]
    others = settings | others
    return rnnmnist.fit(inputs, labels, workdir=workdir, num_steps=num_steps, **others)
"""


@pytest.mark.slow
def test_a_service_gets_our_warnings_and_can_be_terminated(
    tmp_path: Path, unoptimized: dict[str, str]
) -> None:
    """The root logger's level is INFO, but other libraries' messages do not appear.

    A line of code in `docs/reliability.md` turns SIGTERM into an interrupt. The run
    may save a checkpoint between two validations.
    """
    page = (REPOSITORY / "docs" / "reliability.md").read_text()
    (line,) = re.findall("^signal.signal.*$", page, re.MULTILINE)
    program = f"""{SERVICE}
rnnmnist.load(fit(20, verbose=False).workdir)
print("terminated", file=sys.stderr)
{line}


def terminate(metrics):
    if metrics.step == 40:
        os.kill(os.getpid(), signal.SIGTERM)


try:
    fit(1000, callback=terminate, verbose=False)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
"""
    finished = run_python("-c", program, tmp_path / "run", environment=unoptimized)
    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr
    quiet, _, last = finished.stderr.partition("terminated\n")
    assert quiet == ""
    warning, end = last.splitlines()
    assert re.match(r"rnnmnist\..*\|train.num_steps was 20 and is now 1000", warning)
    assert end == "interrupted"
    assert list_steps(tmp_path / "run")[-1] in (40, 45)


@pytest.mark.slow
def test_a_forked_child_is_told_to_load_after_the_fork(
    reference: Path, unoptimized: dict[str, str]
) -> None:
    """The child uses the parent's network, loads a network, or trains."""
    program = f"""{SERVICE}
model = rnnmnist.load(sys.argv[2])
content = pickle.dumps(model)
calls = {{
    "classify": lambda: model.classify(inputs),
    "start": model.start,
    "unpickled": lambda: pickle.loads(content).classify(inputs),
    "load": lambda: rnnmnist.load(sys.argv[2]),
    "fit": lambda: fit(20),
}}
for name, call in calls.items():
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            call()
        except rnnmnist.errors.UserError as error:
            print(name, error, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print(model.classify(inputs).shape)
"""
    unused = reference.parent / "forked" / "run"
    finished = run_python(
        "-W", "ignore", "-c", program, unused, reference, environment=unoptimized
    )
    assert finished.returncode == 0, finished.stderr
    *errors, last = finished.stdout.splitlines()
    calls = ["classify", "start", "unpickled", "load", "fit"]
    assert [line.split()[0] for line in errors] == calls
    assert all("load networks after the fork" in line for line in errors)
    assert last == "(40, 2)"
    assert not unused.exists()


def test_a_renamed_run_keeps_one_copy_of_its_sequences(tmp_path: Path) -> None:
    moved = fit(tmp_path / "run").rename(tmp_path / "moved")
    times = file_times(moved / "arrays.data")
    fit(moved)
    assert file_times(moved / "arrays.data") == times
    shutil.rmtree(moved / "arrays.data")
    left = moved / ".unfinished" / "arrays"  # left by a killed process
    left.mkdir(parents=True)
    fit(moved)
    assert not left.exists()
    assert len(list(moved.glob("*.data"))) == 1
    assert load(moved).evaluate("train").examples > 0
    with pytest.raises(UserError, match="feature_names: must be "):
        fit(moved, feature_names=["other"], num_steps=40)


def test_a_users_folder_in_the_workdir_is_kept(tmp_path: Path) -> None:
    mine = tmp_path / "run" / "raw.data" / "mine.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    fit(tmp_path / "run", num_steps=5)
    assert mine.read_text() == "mine"
    assert (tmp_path / "run" / "arrays.data").is_dir()


def test_invalid_arguments_are_reported_before_anything_is_written(
    tmp_path: Path,
) -> None:
    unused = tmp_path / "run"
    number: Any = 3
    calls: dict[str, Callable[[], object]] = {
        "execution.num_devices: .*3": lambda: fit(unused, num_devices=3),
        "execution.num_devices: .*5": lambda: rnnmnist.train(
            "tutorial", workdir=unused, num_devices=5, data_dir=unused
        ),
        "config: .*3": lambda: rnnmnist.train(number, workdir=unused),
        "workdir: .*3": lambda: load(number),
        "output: .*3": lambda: load().export("onnx", number),
    }
    for message, call in calls.items():
        with pytest.raises(rnnmnist.UserError, match=f"^{message}"):
            call()
    assert not unused.exists()
