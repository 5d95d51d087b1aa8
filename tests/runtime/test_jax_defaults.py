"""Settings of jax in the environment change no result of a command."""

from pathlib import Path

import pytest
import trainer
from support import Command, output_of

SETTINGS = {
    "JAX_ENABLE_X64": "1",
    "JAX_DISABLE_JIT": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_TRANSFER_GUARD": "disallow",
}


@pytest.mark.slow
def test_settings_of_jax_do_not_reach_a_command(
    command: Command, reference_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / reference_run.name
    args = trainer.arguments(workdir, data_dir)
    output_of(command("main", *args, **SETTINGS))
    trainer.assert_same_end(workdir, reference_run)
    output_of(command("evaluate", f"--workdir={workdir}", **SETTINGS))
    trainer.assert_same_end(workdir, reference_run)
