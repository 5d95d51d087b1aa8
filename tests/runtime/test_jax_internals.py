"""What happens when a library has renamed what the package knows of it.

Each of `jax_internals`, and the type of error that TFDS does not export.
"""

import sys
from types import ModuleType

import jax
import pytest
import trainer
from support import output_of, run_python

from rnnmnist.errors import UserError
from rnnmnist.runtime.distributed import initialize
from rnnmnist.runtime.jax_internals import has_devices

# As after an update that renames everything.
RENAMED = """
import sys, types
import jax, tensorflow_datasets
from rnnmnist.runtime import jax_internals

sys.modules["jax._src.distributed"] = types.ModuleType("jax._src.distributed")
for name in ("CACHE_WARNING", "DEVICES_LOGGER", "NO_CLUSTER"):
    setattr(jax_internals, name, "reworded")
jax_internals.COMPILATION_EVENTS = {"/renamed"}
del tensorflow_datasets.core.download.download_manager.NonMatchingChecksumError

from rnnmnist import cli, main
cli.run(main.main)
"""


def test_a_run_of_one_process_goes_on(new_run: trainer.Run) -> None:
    """A warning says that it is alone."""
    argv = "-c", RENAMED, *new_run.arguments("--config.train.num_steps=7")
    finished = run_python(*argv, environment=new_run.environment)
    assert "compile 0.0" in output_of(finished)
    (line,) = finished.stderr.splitlines()
    assert line.startswith("warning: jax cannot detect whether other processes belong ")
    assert "this run, which goes on alone (ValueError: " in line


def test_fit_keeps_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process of which it cannot know whether jax has its devices."""
    name = "jax._src.xla_bridge"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert has_devices()


@pytest.mark.slow
def test_several_processes_are_refused_in_one_line(new_run: trainer.Run) -> None:
    running = new_run.start_together(program=["-c", RENAMED])
    for code, _, stderr in trainer.outcomes(running):
        assert code == 2
        (line,) = stderr.splitlines()
        assert line.startswith("error: num_processes: jax ")
        assert line.endswith("or start one process with num_processes=1")
    assert not new_run.workdir.exists()


@pytest.mark.parametrize("variable", ["SLURM_STEP_NODELIST", "JOB_COMPLETION_INDEX"])
def test_one_of_several_processes_does_not_go_on_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Where a launcher has started it, and the detection fails."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no coordinator")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setenv(variable, "1")
    error = r"cannot join a cluster \(RuntimeError: no coordinator\)"
    with pytest.raises(UserError, match=error), initialize(None, None, None):
        pass
