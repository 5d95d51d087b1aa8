"""Fixtures and strict settings: no implicit promotion, eight simulated devices.

All workers of a pytest run, and the commands that they start, share a compilation cache
and a folder of prepared data sets. The cache is kept in `.pytest_cache` for the next
run; `pytest --cache-clear` empties it. Fast tests disable most compiler optimizations,
which halves the compile time. Slow tests compile the programs that users run, unless
they use the fixture `fast_programs`, `unoptimized` or `unoptimized_commands`.
"""

import isolation  # noqa: F401

# isort: split
import fcntl
import gc
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
import trainer
from support import (
    ORIGINALS,
    REPOSITORY,
    UNOPTIMIZED,
    Command,
    Once,
    fast_compilation,
    run_python,
)

from rnnmnist.config.resolving import RunConfig, resolve
from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from rnnmnist.data.image_datasets import image_task

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # orbax, after a failed read


def pytest_configure(config: pytest.Config) -> None:
    """Configures jax in each worker before jax initializes its devices."""
    gc.set_threshold(10_000, 20, 100)  # collections visit all objects of libraries
    is_fast = "not slow" in config.option.markexpr
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    programs = config.cache.mkdir("programs")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if is_fast:
        os.environ |= UNOPTIMIZED
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def originals() -> Path:
    """The folder of the original data files; tests are skipped without it."""
    if not ORIGINALS.is_dir():
        pytest.skip("RNNMNIST_ORIGINALS names no folder")
    return ORIGINALS


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this pytest run share."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    (folder / "shared").mkdir(exist_ok=True)
    return folder / "shared"


@pytest.fixture(scope="session")
def once(shared: Path) -> Once:
    """Returns a function that creates a shared folder once for all workers.

    Its arguments are the folder's name and a function that creates the folder. Tests
    must not change the folder; they copy it.
    """

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def data_dir(shared: Path) -> Path:
    """The folder where TFDS prepares data sets, shared by all tests."""
    return shared / "tfds"


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment variables for commands."""
    return os.environ | {"PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def unoptimized(environment: dict[str, str]) -> dict[str, str]:
    """Environment variables for commands, with most compiler optimizations disabled.

    For tests that do not check the programs that users run.
    """
    return environment | UNOPTIMIZED


@pytest.fixture
def unoptimized_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the `unoptimized` variables for all commands that this process starts."""
    for name, text in UNOPTIMIZED.items():
        monkeypatch.setenv(name, text)


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Runs `python -m rnnmnist.NAME` or `python -m rnnmnist NAME` until it exits."""

    def run(
        name: str, *arguments: object, cwd: Path = REPOSITORY, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        is_module = name in ("main", "evaluate", "__main__")
        program = [f"rnnmnist.{name}"] if is_module else ["rnnmnist", name]
        argv = "-m", *program, *arguments
        return run_python(*argv, environment=environment | variables, cwd=cwd)

    return run


@pytest.fixture
def fast_programs() -> Iterator[None]:
    """For slow tests that do not check the programs that users run."""
    with fast_compilation():
        yield


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """Collects the SIGINT signals that reach the handler of this process."""
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables the rendering of plots, for tests that read only a report's text."""
    monkeypatch.setattr("rnnmnist.reporting.plots.to_png", lambda figure: bytes(24))


@pytest.fixture(scope="session")
def committed(once: Once) -> Path:
    """A git repository whose only commit contains the files of this working tree."""

    def commit(folder: Path) -> None:
        git = ["git", f"--git-dir={folder}", f"--work-tree={REPOSITORY}"]
        git += ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        for arguments in ("init --quiet", "add --all", "commit --quiet --message=all"):
            subprocess.run([*git, *arguments.split()], cwd=REPOSITORY, check=True)

    return once("committed", commit)


@pytest.fixture(scope="session")
def reference_run(once: Once, command: Command, data_dir: Path) -> Path:
    """The workdir of an uninterrupted run, whose output is in `../printed.txt`."""

    def train(folder: Path) -> None:
        args = trainer.arguments(folder / "with space and ü", data_dir)
        finished = command("__main__", "train", *args)
        assert (finished.returncode, finished.stderr) == (0, "")
        (folder / "printed.txt").write_text(finished.stdout)

    return once("reference_run", train) / "with space and ü"


@pytest.fixture
def new_run(environment: dict[str, str], data_dir: Path, tmp_path: Path) -> trainer.Run:
    """A run that has not been started."""
    return trainer.Run(tmp_path / "run", data_dir, environment)


@pytest.fixture
def small(data_dir: Path) -> RunConfig:
    """A configuration that trains for a few seconds."""
    config = Config(
        data=DataConfig(name="mnist5k", data_dir=str(data_dir), max_shift=1),
        model=ModelConfig(hidden_size=16),
        train=TrainConfig(
            batch_size=32, num_steps=30, log_every_steps=7, eval_every_steps=10
        ),
    )
    return resolve(config, image_task(config.data))
