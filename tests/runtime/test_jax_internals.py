"""What happens when a library has renamed what the package knows of it.

Each of `jax_internals`, and the type of error that TFDS does not export.
"""

import pytest
import trainer
from support import output_of, run_python

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


@pytest.mark.slow
def test_a_run_of_one_process_goes_on(new_run: trainer.Run) -> None:
    """A warning says that it is alone."""
    argv = "-c", RENAMED, *new_run.arguments("--config.train.num_steps=7")
    finished = run_python(*argv, environment=new_run.environment)
    assert "compile 0.0" in output_of(finished)
    (line,) = finished.stderr.splitlines()
    assert line.startswith("warning: jax cannot detect whether other processes belong ")
    assert "this run, which goes on alone (ValueError: " in line
