"""Checkpoints: exact round trips, retention, selection and errors."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training.train_state import TrainState
from support import mesh_of, random_examples

from rnnmnist.checkpoints import store
from rnnmnist.checkpoints.checksums import params_sha256
from rnnmnist.checkpoints.selection import find_step, with_step
from rnnmnist.checkpoints.store import Checkpoints
from rnnmnist.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from rnnmnist.data.batches import TrainingSplit
from rnnmnist.errors import RunError, UserError
from rnnmnist.models.classifier import Params, abstract_params, make_model
from rnnmnist.runtime.mesh import replicated
from rnnmnist.training.state import (
    abstract_state,
    create_state,
    restore_state,
    saved_arrays,
)
from rnnmnist.training.step import train_steps

CONFIG = Config(
    data=DataConfig(name="mnist5k", data_dir="/a/path of this machine"),
    model=ModelConfig(hidden_size=16),
    train=TrainConfig(batch_size=32, num_steps=30),
)


@pytest.fixture(scope="module")
def state() -> TrainState:
    """A training state whose optimizer state is random."""
    state = create_state(CONFIG, make_model(CONFIG.model), mesh_of(8))
    generator = np.random.default_rng(1)

    def noise(leaf: jax.Array) -> jax.Array:
        values = np.asarray(leaf)
        if values.dtype == np.float32:
            values = generator.normal(size=values.shape).astype(np.float32)
        else:
            values = values + 7
        return jax.device_put(values, leaf.sharding)

    return state.replace(opt_state=jax.tree.map(noise, state.opt_state))


def abstract(config: Config, devices: int = 1) -> Params:
    """The abstract parameters of a configuration."""
    return abstract_params(make_model(config.model), replicated(mesh_of(devices)))


def save(
    workdir: Path,
    state: TrainState,
    accuracies: dict[int, float | None],
    config: Config = CONFIG,
) -> None:
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step, accuracy in accuracies.items():
            metrics = None if accuracy is None else {"accuracy": accuracy, "step": step}
            arrays = saved_arrays(state.replace(step=jnp.int32(step)))
            checkpoints.save(step, arrays, config, metrics)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_restored_arrays_are_bitwise_equal(
    tmp_path: Path, state: TrainState, devices: int
) -> None:
    save(tmp_path, state, {5: 0.5})
    like = abstract_state(CONFIG, make_model(CONFIG.model), mesh_of(devices))
    found = restore_state(tmp_path, 5, like)
    assert int(found.step) == 5
    assert params_sha256(found.params) == params_sha256(state.params)
    before, after = jax.tree.leaves(state.opt_state), jax.tree.leaves(found.opt_state)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    structures = (jax.tree.structure(tree.opt_state) for tree in (found, state))
    assert len(set(map(str, structures))) == 1
    leaf = found.params["head"]["kernel"]
    assert len(leaf.sharding.device_set) == devices
    alone = store.read_params(tmp_path, 5, like.params)
    assert params_sha256(alone) == params_sha256(state.params)


def test_params_are_the_averaged_weights(tmp_path: Path) -> None:
    config, mesh = CONFIG.replace({"train.ema_decay": 0.9}), mesh_of(1)
    state = create_state(config, make_model(config.model), mesh)
    split = TrainingSplit.device_put(random_examples(100), config, mesh)
    state, _ = train_steps(state, split, jnp.int32(3), mesh=mesh)
    save(tmp_path, state, {3: 0.5}, config)
    like = abstract_state(config, make_model(config.model), mesh)
    found = restore_state(tmp_path, 3, like)
    trained = params_sha256(found.opt_state.iterate)
    assert trained == params_sha256(state.opt_state.iterate)
    evaluated = params_sha256(store.read_params(tmp_path, 3, like.params))
    assert evaluated == params_sha256(state.params) != trained


def test_the_configuration_and_the_metrics_are_restored(
    tmp_path: Path, state: TrainState
) -> None:
    save(tmp_path, state, {5: 0.5, 6: None})
    assert store.read_config(tmp_path, 5) == CONFIG
    assert store.read_metrics(tmp_path, 5) == {"accuracy": 0.5, "step": 5}
    assert store.read_metrics(tmp_path, 6) is None


def test_the_newest_and_the_best_are_kept_across_a_restart(
    tmp_path: Path, state: TrainState
) -> None:
    save(tmp_path, state, {1: 0.1, 2: 0.9, 3: 0.5, 4: 0.9, 5: None, 6: 0.2})
    assert store.list_steps(tmp_path) == [2, 5, 6]
    assert find_step(tmp_path, "best") == 2  # the earlier one on a tie
    assert find_step(tmp_path, "latest") == 6
    assert find_step(tmp_path, "5") == 5
    save(tmp_path, state, {7: 0.3, 8: 0.4})
    assert store.list_steps(tmp_path) == [2, 7, 8]


def test_folders_of_other_names_are_ignored(tmp_path: Path, state: TrainState) -> None:
    save(tmp_path, state, {5: 0.5})
    for name in ("007", "05", "٣", "6.orbax-checkpoint-tmp", "damaged-7", "-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").touch()
    (tmp_path / "9.orbax-checkpoint-tmp").touch()
    assert store.list_steps(tmp_path) == [5]
    assert with_step(tmp_path, "latest", lambda step: step) == 5
    save(tmp_path, state, {6: 0.1})
    assert store.list_steps(tmp_path) == [5, 6]


def test_a_step_deleted_while_it_is_read_is_selected_again(
    tmp_path: Path, two_steps: Path
) -> None:
    workdir = shutil.copytree(two_steps, tmp_path / "run")
    selected = []

    def use(step: int) -> int:
        selected.append(step)
        if step == 2:
            shutil.rmtree(workdir / "2")
        store.read_config(workdir, step)
        return step

    assert with_step(workdir, "latest", use) == 1
    assert selected == [2, 1]


def test_quarantine_keeps_earlier_quarantined_checkpoints(
    tmp_path: Path, state: TrainState
) -> None:
    for _ in range(3):
        save(tmp_path, state, {5: 0.5})
        store.quarantine(tmp_path, 5)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == ["damaged-5", "damaged-5-2", "damaged-5-3"]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, state: TrainState) -> Path:
    """A workdir with two steps, which no test changes."""
    workdir = tmp_path_factory.mktemp("run")
    save(workdir, state, {1: 0.1, 2: 0.2})
    return workdir


@pytest.mark.parametrize("selector", ["3", "first", "-1", "²", "", "9" * 5000])
def test_an_unknown_step_is_refused_with_the_existing_ones(
    two_steps: Path, selector: str
) -> None:
    with pytest.raises(UserError, match=r"choose best, latest or one of 1, 2"):
        find_step(two_steps, selector)


def test_a_missing_workdir_is_refused_and_not_created(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(UserError, match="does not exist"):
        find_step(missing, "best")
    assert not missing.exists()
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_step(tmp_path, "best")


def test_a_wrong_shape_or_type_is_an_error_that_names_the_leaf(
    two_steps: Path,
) -> None:
    wider = abstract(CONFIG.replace({"model.hidden_size": 17}))
    with pytest.raises(RunError, match=r"cell/hf/bias in params is float32 \(16,\)"):
        store.read_params(two_steps, 1, wider)
    narrow = jax.tree.map(
        lambda leaf: leaf.update(dtype=jnp.bfloat16), abstract(CONFIG)
    )
    with pytest.raises(
        RunError, match=r"cell/hf/bias in params is float32 .* not bfloat16"
    ):
        store.read_params(two_steps, 1, narrow)
    other = abstract(CONFIG.replace({"model.cell": "gru"}))
    with pytest.raises(RunError, match="params holds no cell/hn/bias"):
        store.read_params(two_steps, 1, other)


def test_saved_params_contain_no_path_of_this_machine(
    tmp_path: Path, two_steps: Path, state: TrainState
) -> None:
    assert store.read_config(two_steps, 2).data.data_dir is not None
    target = tmp_path / "export"
    config, metrics = store.read_config(two_steps, 2), store.read_metrics(two_steps, 2)
    store.save_params(target, 2, state.params, config, metrics)
    assert find_step(target, "best") == 2
    assert store.read_config(target, 2).data.data_dir is None
    assert not (target / "2" / "state").exists()
    found = store.read_params(target, 2, state.params)
    assert params_sha256(found) == params_sha256(state.params)
    paths = [str(CONFIG.data.data_dir), str(two_steps), str(tmp_path)]
    for path in target.rglob("*"):
        for text in paths:
            assert path.is_dir() or text.encode() not in path.read_bytes(), path


def test_metadata_that_claim_too_much_memory_are_damage(two_steps: Path) -> None:
    folder = two_steps / "2"
    huge = {"a": jax.ShapeDtypeStruct((1 << 40,), np.dtype(np.float32))}
    with pytest.raises(store.DamagedError, match=f"claim {1 << 42} bytes"):
        store._check_size(folder, "params", huge)
