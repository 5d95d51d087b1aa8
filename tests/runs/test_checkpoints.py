"""Checkpoints: exact round trips, kept steps, selection and errors."""

import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import make_reference
import numpy as np
import orbax.checkpoint as ocp
import pytest
from support import (
    TASK,
    array_checksums,
    file_times,
    make_metrics,
    mesh_of,
)

from rnnmnist.config.recipes import Request
from rnnmnist.config.resolving import RunConfig, fill_defaults
from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.data.datasets import open_data_source
from rnnmnist.errors import RunError, UserError
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import (
    FORMAT_VERSION,
    Header,
    write_checksums,
)
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import list_steps
from rnnmnist.runtime.mesh import replicate
from rnnmnist.training.resume import open_run, restore_state
from rnnmnist.training.state import Program, TrainState, create_state

GIVEN = Config().replace(
    {
        "data.name": "mnist5k",
        "data.data_dir": "/a/path",
        "data.path": "/another path",
        "model.hidden_size": 16,
        "train.batch_size": 32,
        "train.num_steps": 30,
    }
)
CONFIG = fill_defaults(GIVEN, TASK)  # its paths are not checked


@pytest.fixture(scope="module")
def state() -> TrainState:
    """Returns a training state on eight devices, with a random optimizer state."""
    state = create_state(CONFIG, Program.create(CONFIG, TASK, mesh_of(8)))
    generator = np.random.default_rng(1)

    def noise(leaf: jax.Array) -> jax.Array:
        values = 100 * generator.normal(size=leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    opt_state = jax.tree.map(noise, state.opt_state)
    return state._replace(opt_state=opt_state)


def validation_metrics(step: int, accuracy: float | None) -> StepMetrics | None:
    """Returns the metrics of a validation; None without an accuracy."""
    if accuracy is None:
        return None
    return make_metrics(step, "validation", 100, [round(100 * accuracy)], [1.5])


def save(
    workdir: Path,
    state: TrainState,
    accuracies: dict[int, float | None],
    config: RunConfig = CONFIG,
    devices: int = 8,
) -> None:
    for step, accuracy in accuracies.items():
        metrics = validation_metrics(step, accuracy)
        header = Header(step=step, config=config, task=TASK, metrics=metrics)
        arrays = state.evaluated_params, state._asdict()
        Record(workdir).save(header, *replicate(arrays, mesh_of(devices)))


@pytest.mark.parametrize("devices", [1, 8])
def test_restored_arrays_are_bitwise_equal(
    tmp_path: Path, state: TrainState, devices: int
) -> None:
    """`params` are the EMA, which is evaluated; the state has the trained weights."""
    config = CONFIG.replace({"train.ema_decay": 0.9})
    average = jax.tree.map(jnp.negative, state.params)
    averaged = state._replace(ema_params=average)
    save(tmp_path, averaged, {5: 0.5}, config)
    evaluated = checkpoints.read_arrays(tmp_path, 5, "params")
    assert array_checksums(evaluated) == array_checksums(average)
    program = Program.create(config, TASK, mesh_of(devices))
    found = restore_state(Record(tmp_path), config, program)
    assert array_checksums(found) == array_checksums(averaged)
    for leaf in jax.tree.leaves(found):
        assert len(leaf.sharding.device_set) == devices


def test_the_newest_and_the_best_are_kept_across_a_restart(
    tmp_path: Path, state: TrainState
) -> None:
    """A save between validations, as after a signal, is kept while it is the newest."""
    accuracies = {1: 0.1, 2: 0.9, 3: 0.9, 4: None}
    save(tmp_path, state, accuracies)
    assert list_steps(tmp_path) == [2, 3, 4]
    accuracies[5] = 0.2
    save(tmp_path, state, {5: 0.2})
    for step in (2, 3, 5):
        header = Record(tmp_path).headers[step]
        assert (header.config, header.task) == (CONFIG, TASK)
        assert header.metrics == validation_metrics(step, accuracies[step])
    assert list_steps(tmp_path) == [2, 3, 5]
    assert Record(tmp_path).select("best").step == 2  # the earlier one on a tie
    assert Record(tmp_path).select("latest").step == 5
    assert Record(tmp_path).select("3").step == 3
    save(tmp_path, state, {6: 0.3})
    assert list_steps(tmp_path) == [2, 5, 6]


def test_other_folders_and_files_are_ignored(tmp_path: Path, state: TrainState) -> None:
    save(tmp_path, state, {5: 0.5})
    for name in ("007", "05", "7", "٣", "6.orbax-checkpoint-tmp", "damaged-7", "-1"):
        (tmp_path / name).mkdir()
    assert list_steps(tmp_path) == [5]
    assert Record(tmp_path).select("latest").step == 5


def test_orbax_itself_restores_the_parameters(
    two_steps: Path, state: TrainState
) -> None:
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(two_steps, options=options) as manager:
        assert manager.all_steps() == [1, 2]
        items = ocp.args.Composite(params=ocp.args.StandardRestore())
        restored = manager.restore(2, args=items)["params"]
    assert array_checksums(restored) == array_checksums(state.params)


def test_a_failed_save_leaves_the_earlier_steps(
    two_steps: Path, tmp_path: Path, state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    workdir = shutil.copytree(two_steps, tmp_path / "run")
    before = file_times(workdir)
    monkeypatch.setattr(checkpoints, "sync", fail)
    with pytest.raises(RunError, match=r"step 3 cannot be saved in .*No space left"):
        save(workdir, state, {3: 0.5})
    assert file_times(workdir) == before


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, state: TrainState) -> Path:
    """Returns a workdir with two steps, which no test changes."""
    workdir = tmp_path_factory.mktemp("run")
    save(workdir, state, {1: 0.1, 2: 0.2})
    return workdir


@pytest.mark.parametrize("selector", ["3", "first", "²"])
def test_an_unknown_step_is_refused_with_the_existing_ones(
    two_steps: Path, selector: str
) -> None:
    with pytest.raises(UserError, match=r"choose best, latest or one of 1, 2"):
        Record(two_steps).select(selector)


def test_a_state_of_another_run_is_an_error(
    two_steps: Path,
) -> None:
    config = CONFIG.replace({"model.hidden_size": 17})
    program = Program.create(config, TASK, mesh_of(1))
    with pytest.raises(RunError, match="in state, opt_state/1/0/mu"):
        restore_state(Record(two_steps), config, program)


def test_a_reference_model_contains_no_path_of_this_machine(
    tmp_path: Path, two_steps: Path
) -> None:
    target = tmp_path / "reference"
    make_reference.save(two_steps, target)
    header = Record(target).select("best")
    assert header.config == CONFIG.replace(dict.fromkeys(DATA_PATHS))
    with (
        pytest.raises(UserError, match="only parameters"),
        open_run(Request(GIVEN.replace({"data.path": None})), target, open_data_source),
    ):
        pass
    content = b"".join(p.read_bytes() for p in target.rglob("*") if p.is_file())
    for path in (CONFIG.data.data_dir, CONFIG.data.path, two_steps, tmp_path):
        assert str(path).encode() not in content, path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", FORMAT_VERSION + 1),
        ("config", {"train": {"momentum": 0.9}}),
        ("metrics", 3),
        ("step", 3),  # the user has renamed the folder
    ],
)
def test_a_checkpoint_of_another_version_is_refused(
    two_steps: Path, tmp_path: Path, name: str, value: object
) -> None:
    workdir = shutil.copytree(two_steps, tmp_path / "run")
    path = workdir / "2" / "header" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    write_checksums(workdir / "2")
    message = (
        "2 contains the checkpoint of step 3"
        if name == "step"
        else "another version of rnnmnist"
    )
    with pytest.raises(UserError, match=message):
        Record(workdir)
