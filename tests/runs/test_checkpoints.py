"""Checkpoints: exact round trips, retention, selection and errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import make_reference
import numpy as np
import pytest
from support import (
    TASK,
    array_checksums,
    batches_of,
    file_times,
    make_metrics,
    mesh_of,
    model_of,
    random_examples,
    rates_of,
)

from rnnmnist.config.resolving import RunConfig, fill_defaults
from rnnmnist.config.schema import DATA_PATHS, Config
from rnnmnist.config.tasks import MIN_VALIDATION_EXAMPLES
from rnnmnist.errors import RunError, UserError
from rnnmnist.models.classifier import abstract_params
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import (
    FORMAT,
    DamagedError,
    has_state,
    quarantine,
    read_header,
    seal,
)
from rnnmnist.runs.checkpoints import Checkpoints, params_sha256
from rnnmnist.runs.logs import Metrics
from rnnmnist.runs.selection import find_step, read_selected_step
from rnnmnist.runs.workdir import list_steps
from rnnmnist.runtime.mesh import abstract_ensemble, replicate
from rnnmnist.training.resume import check_settings, restore_state
from rnnmnist.training.state import (
    Program,
    TrainState,
    create_state,
    to_items,
)
from rnnmnist.training.step import train_chunk

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
LIKE = abstract_ensemble(abstract_params(model_of(CONFIG.model)), num_seeds=1)


@pytest.fixture(scope="module")
def state() -> TrainState:
    """A training state of eight devices whose optimizer state is random."""
    state = create_state(CONFIG, Program.create(CONFIG, TASK, mesh_of(8)))
    generator = np.random.default_rng(1)

    def noise(leaf: jax.Array) -> jax.Array:
        values = 100 * generator.normal(size=leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    opt_state = jax.tree.map(noise, state.opt_state)
    return state._replace(opt_state=opt_state)


def validation_metrics(
    step: int, accuracy: float | None, examples: int = MIN_VALIDATION_EXAMPLES
) -> Metrics | None:
    """Metrics of a validation, None without an accuracy."""
    if accuracy is None:
        return None
    correct = round(accuracy * examples)
    return make_metrics(step, "validation", examples, [correct], [1.5])


def save(
    workdir: Path,
    state: TrainState,
    accuracies: dict[int, float | None],
    config: RunConfig = CONFIG,
    devices: int = 8,
    examples: int = MIN_VALIDATION_EXAMPLES,
) -> None:
    with Checkpoints(workdir, config, TASK) as checkpoints:
        for step, accuracy in accuracies.items():
            metrics = validation_metrics(step, accuracy, examples)
            renamed = state._replace(step=jnp.int32(step))
            items = replicate(to_items(renamed), mesh_of(devices))
            checkpoints.save(step, items, metrics)


@pytest.mark.parametrize("devices", [1, 8])
def test_restored_arrays_are_bitwise_equal(
    tmp_path: Path, state: TrainState, devices: int
) -> None:
    save(tmp_path, state, {5: 0.5})
    program = Program.create(CONFIG, TASK, mesh_of(devices))
    found = restore_state(tmp_path, 5, CONFIG, program)
    assert int(found.step) == 5
    assert found.ema_params is None
    assert array_checksums(found.params) == array_checksums(state.params)
    assert array_checksums(found.opt_state) == array_checksums(state.opt_state)
    for leaf in jax.tree.leaves(found):
        assert len(leaf.sharding.device_set) == devices


def test_training_from_a_checkpoint_gives_the_bits_of_an_uninterrupted_run(
    tmp_path: Path,
) -> None:
    """The saved average is evaluated, and the trained parameters are restored."""
    config, mesh = CONFIG.replace({"train.ema_decay": 0.9}), mesh_of(1)
    program = Program.create(config, TASK, mesh)
    source = batches_of(random_examples(100), config, mesh)
    ((chunk, _),) = source.chunks(0, 7)
    state = create_state(config, program)
    rates = rates_of(chunk, config)
    state, _ = train_chunk(state, chunk, rates, jnp.int32(3), program=program)
    save(tmp_path, state, {3: 0.5}, config, devices=1)

    evaluated = checkpoints.read_arrays(tmp_path, 3, "params")
    assert params_sha256(evaluated) == params_sha256(state.evaluated_params)
    rest = checkpoints.read_arrays(tmp_path, 3, "state")
    trained = params_sha256(rest["trained_params"])
    assert trained == params_sha256(state.params) != params_sha256(evaluated)

    resumed = restore_state(tmp_path, 3, config, program)
    assert array_checksums(resumed) == array_checksums(state)
    found, expected = (
        train_chunk(start, chunk, rates, jnp.int32(4), program=program)
        for start in (resumed, state)
    )
    assert array_checksums(found) == array_checksums(expected)
    assert int(found[0].step) == 7


def test_the_newest_and_the_best_are_kept_across_a_restart(
    tmp_path: Path, state: TrainState
) -> None:
    accuracies = {1: 0.1, 2: 0.9, 3: 0.9, 4: None, 5: 0.2}
    save(tmp_path, state, accuracies)
    for step in (2, 4, 5):
        header = read_header(tmp_path, step)
        assert (header.config, header.task) == (CONFIG, TASK)
        assert header.metrics == validation_metrics(step, accuracies[step])
    assert list_steps(tmp_path) == [2, 4, 5]
    assert find_step(tmp_path, "best") == 2  # the earlier one on a tie
    assert find_step(tmp_path, "latest") == 5
    assert find_step(tmp_path, "4") == 4
    save(tmp_path, state, {6: 0.3})
    assert list_steps(tmp_path) == [2, 5, 6]


def test_few_validation_examples_select_no_step(
    tmp_path: Path, state: TrainState
) -> None:
    """The last validated one is the best, and only the newest steps are kept."""
    accuracies = {1: 0.9, 2: 0.1, 3: 0.2, 4: None}
    save(tmp_path, state, accuracies, examples=MIN_VALIDATION_EXAMPLES - 1)
    assert list_steps(tmp_path) == [3, 4]
    assert find_step(tmp_path, "best") == 3


def test_folders_of_other_names_are_ignored(tmp_path: Path, state: TrainState) -> None:
    save(tmp_path, state, {5: 0.5})
    for name in ("007", "05", "٣", "6.orbax-checkpoint-tmp", "damaged-7", "-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").touch()
    (tmp_path / "9.orbax-checkpoint-tmp").touch()
    assert list_steps(tmp_path) == [5]
    assert read_selected_step(tmp_path, "latest", lambda step: step) == 5
    save(tmp_path, state, {6: 0.1})
    assert list_steps(tmp_path) == [5, 6]


# What a user's own folder can contain; the last is a step of another orbax program.
@pytest.mark.parametrize(
    "names",
    [
        ["SHA256SUMS", "header/note"],
        ["_CHECKPOINT_METADATA", "params/_METADATA", "state/_METADATA"],
    ],
)
def test_a_numbered_folder_of_the_user_is_no_step(
    two_steps: Path, tmp_path: Path, names: list[str]
) -> None:
    """orbax would take it for the newest one, and save none before it."""
    workdir = shutil.copytree(two_steps, tmp_path / "run")
    for name in names:
        path = workdir / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert list_steps(workdir) == [1, 2]
    assert find_step(workdir, "latest") == 2
    before = file_times(tmp_path)
    with pytest.raises(UserError, match=r"run/7 is not a checkpoint of rnnmnist"):
        check_settings(CONFIG, workdir)
    assert file_times(tmp_path) == before


def test_a_step_deleted_while_it_is_read_is_selected_again(
    tmp_path: Path, two_steps: Path
) -> None:
    workdir = shutil.copytree(two_steps, tmp_path / "run")
    selected = []

    def use(step: int) -> int:
        selected.append(step)
        if step == 2:
            shutil.rmtree(workdir / "2")
        read_header(workdir, step)
        return step

    assert read_selected_step(workdir, "latest", use) == 1
    assert selected == [2, 1]


def test_quarantine_keeps_earlier_quarantined_checkpoints(
    tmp_path: Path, state: TrainState
) -> None:
    for _ in range(3):
        save(tmp_path, state, {5: 0.5})
        quarantine(tmp_path, 5)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == ["damaged-5", "damaged-5-2", "damaged-5-3"]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, state: TrainState) -> Path:
    """A workdir with two steps, which no test changes."""
    workdir = tmp_path_factory.mktemp("run")
    save(workdir, state, {1: 0.1, 2: 0.2})
    return workdir


@pytest.mark.parametrize("selector", ["3", "first", "²"])
def test_an_unknown_step_is_refused_with_the_existing_ones(
    two_steps: Path, selector: str
) -> None:
    with pytest.raises(UserError, match=r"choose best, latest or one of 1, 2"):
        find_step(two_steps, selector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.hidden_size": 17}, r"cell/hf/bias in params is float32 \(1, 16\)"),
        ({"model.cell": "gru"}, "cell/hn/bias in params is missing"),
        ({"train.ema_decay": 0.9}, "trained_params/cell/hf/bias in state is missing"),
    ],
)
def test_a_state_of_another_run_is_an_error_that_names_the_leaf(
    two_steps: Path, settings: dict[str, Any], message: str
) -> None:
    config = CONFIG.replace(settings)
    program = Program.create(config, TASK, mesh_of(1))
    with pytest.raises(RunError, match=message):
        restore_state(two_steps, 1, config, program)


def test_a_reference_model_contains_no_path_of_this_machine(
    tmp_path: Path, two_steps: Path, state: TrainState
) -> None:
    target = tmp_path / "reference"
    make_reference.save(two_steps, target)
    header = read_header(target, find_step(target, "best"))
    assert header.config == CONFIG.replace(dict.fromkeys(DATA_PATHS))
    assert header.task == TASK
    assert not has_state(target, 2)
    assert has_state(two_steps, 2)
    found = checkpoints.read_arrays(target, 2, "params", LIKE)
    assert params_sha256(found) == params_sha256({"all": state.params})
    content = b"".join(p.read_bytes() for p in target.rglob("*") if p.is_file())
    for path in (CONFIG.data.data_dir, CONFIG.data.path, two_steps, tmp_path):
        assert str(path).encode() not in content, path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", FORMAT + 1),
        ("config", {"train": {"momentum": 0.9}}),
        ("metrics", 3),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(
    two_steps: Path, tmp_path: Path, name: str, value: object
) -> None:
    workdir = shutil.copytree(two_steps, tmp_path / "run")
    path = workdir / "2" / "header" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    seal(workdir / "2")
    for read in (read_header, lambda run, _: check_settings(CONFIG, run)):
        with pytest.raises(UserError, match=r"checkpoint .*/2 is of another version"):
            read(workdir, 2)


@pytest.mark.parametrize("text", [b"", b"[]", b"[" * 100_000, b'{"format": "\xff"}'])
def test_what_is_no_header_is_damage(
    two_steps: Path, tmp_path: Path, text: bytes
) -> None:
    workdir = shutil.copytree(two_steps, tmp_path / "run")
    (workdir / "2" / "header" / "metadata").write_bytes(text)
    with pytest.raises(DamagedError, match="header/metadata differs"):
        read_header(workdir, 2)
    (workdir / "2" / "SHA256SUMS").unlink()
    with pytest.raises((UserError, DamagedError)):  # some are valid JSON
        read_header(workdir, 2)
