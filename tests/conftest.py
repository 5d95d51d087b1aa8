"""Strict tests: warnings are errors, ranks promote only when told, eight devices.

The workers of a run of pytest and the commands that they start share one cache of
compiled programs and one folder of prepared data sets. The cache stays in
`.pytest_cache` for the next run; `pytest --cache-clear` empties it. The run of every
commit compiles without most optimizations, which takes half of the time; the slow tests
compile what users run.
"""

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import runs
from jax.sharding import Mesh
from support import CHROMIUM, ORIGINALS, REPOSITORY, Command, Once, mesh_of

from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig

# The CPU as eight devices, for commands that tests call in this process too.
DEVICES = "--xla_force_host_platform_device_count=8"

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # see rnnmnist/errors.py


def pytest_configure(config: pytest.Config) -> None:
    """Sets jax up, in each worker, before anything has asked it for its devices."""
    os.environ["XLA_FLAGS"] = DEVICES
    programs = config.cache.mkdir("programs")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if "not slow" in config.option.markexpr:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def originals() -> Path:
    """The folder of the original data files; without it, a test is skipped."""
    if not ORIGINALS.is_dir():
        pytest.skip("RNNMNIST_ORIGINALS names no folder: no original files are read")
    return ORIGINALS


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of pytest, the same for all of its workers."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    (folder / "shared").mkdir(exist_ok=True)
    return folder / "shared"


@pytest.fixture(scope="session")
def once(shared: Path) -> Once:
    """Makes a folder, unless another worker has made it or is making it.

    It takes the folder's name and a function that fills it, which may not exist yet.
    Tests copy what they change in it.
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
    """Where TFDS prepares data sets for all tests."""
    return shared / "tfds"


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of every command: no network, and the devices that it chooses itself."""
    variables = os.environ | {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
        "PYTHONUNBUFFERED": "1",
    }
    del variables["XLA_FLAGS"]
    return variables


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Runs `python -m rnnmnist.NAME ARGUMENTS`, to its end, as a user would."""

    def run(
        name: str, *arguments: object, cwd: Path = REPOSITORY, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"rnnmnist.{name}", *map(str, arguments)],
            cwd=cwd,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def reference_run(once: Once, command: Command, data_dir: Path) -> Path:
    """The run that nothing happened to."""

    def train(workdir: Path) -> None:
        finished = command("main", *runs.words(workdir, data_dir))
        assert finished.returncode == 0, finished.stderr

    return once("reference_run", train)


@pytest.fixture
def small(data_dir: Path) -> Config:
    """A run of a few seconds."""
    return Config(
        data=DataConfig(name="mnist5k", data_dir=str(data_dir), max_shift=1),
        model=ModelConfig(hidden_size=16),
        train=TrainConfig(
            batch_size=32, num_steps=30, log_every_steps=7, eval_every_steps=10
        ),
    )


@pytest.fixture(params=[1, 8])
def mesh(request: pytest.FixtureRequest) -> Mesh:
    """A mesh of one device, and one of eight."""
    return mesh_of(request.param)
