"""The cache of compiled programs, and the measured compile time."""

import concurrent.futures
from pathlib import Path

import jax
import pytest
from support import run_python

from rnnmnist.runtime.compilation import compile_seconds, enable_compilation_cache


def test_compile_seconds_are_counted_once() -> None:
    """Several commands have run in one process; other threads are not counted."""
    enable_compilation_cache()
    enable_compilation_cache()
    before = compile_seconds()
    event = "/jax/core/compile/backend_compile_duration"
    record = jax.monitoring.record_event_duration_secs
    record(event, 5.0)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(record, event, 7.0).result()
    assert compile_seconds() - before == pytest.approx(5.0)


@pytest.mark.slow
def test_an_incomplete_cache_entry_is_compiled_again_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed during a write leaves such an entry."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    program = (
        "import warnings, jax, pathlib\n"
        "from rnnmnist.commands import command_line\n"
        "from rnnmnist.runtime.compilation import use_cpu\n"
        "use_cpu()\n"
        "command_line._configure_logging()\n"
        "for _ in range(2):\n"
        "    print(jax.jit(lambda x: x + 1)(1))\n"
        f"    for path in pathlib.Path({str(tmp_path)!r}).glob('*-cache'):\n"
        "        path.write_bytes(path.read_bytes()[:100])\n"
        "warnings.warn('another')"
    )
    finished = run_python("-c", program)
    assert (finished.stdout, finished.stderr) == ("2\n2\n", "warning: another\n")
