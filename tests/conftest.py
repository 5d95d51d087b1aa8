"""Strict tests: warnings are errors, ranks promote only when told, eight devices."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import runs
from jax.sharding import AxisType, Mesh
from runs import REPOSITORY

from rnnmnist.config import Config, DataConfig, ModelConfig, TrainConfig
from rnnmnist.data import Examples
from rnnmnist.mesh import BATCH, SEEDS

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # see rnnmnist/errors.py
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

ORIGINALS = REPOSITORY.parent / "shared" / "data"  # see CONTRIBUTING.md

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where TFDS prepares data sets for all tests."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of every command: no network, and one cache of compiled programs."""
    return os.environ | {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "PYTHONUNBUFFERED": "1",
    }


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


def in_a_browser(test: Any) -> Any:
    """Marks what opens pages: slow, and skipped where nothing can open them."""
    reason = "no chromium on the PATH: no page was opened"
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))


@pytest.fixture(scope="session")
def twin(
    tmp_path_factory: pytest.TempPathFactory, command: Command, data_dir: Path
) -> Path:
    """The run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("twin") / "run"
    finished = command("main", *runs.words(workdir, data_dir))
    assert finished.returncode == 0, finished.stderr
    return workdir


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


def mesh_of(count: int) -> Mesh:
    """A mesh of some of the eight simulated devices."""
    devices = np.array(jax.devices()[:count])[None]
    return Mesh(devices, (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2)


def random_examples(count: int, seed: int = 0) -> Examples:
    """Images of noise, each different from every other, and labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    return Examples(images, generator.integers(0, 10, count, np.uint8))


def one_line_error(finished: subprocess.CompletedProcess[str]) -> str:
    """The single line of a refused command, which exited 2."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in finished.stdout
    return lines[0]
