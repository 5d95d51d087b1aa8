"""User-defined functions, in every setting that accepts a function."""

import copy
import functools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.base
import trainer
from support import (
    INPUTS,
    LABELS,
    SMALL,
    as_ensemble,
    batches_of,
    called,
    chunk_of,
    flags_of,
    jax_settings,
    learning_rates_of,
    mesh_of,
    model_of,
    output_of,
    random_examples,
    random_params,
    read_batch,
    refused,
    run_config,
    task_of,
    write_recipes,
)

import rnnmnist
from rnnmnist.config.functions import (
    import_function,
    parse_parameters,
    resolve_function,
)
from rnnmnist.config.resolving import fill_defaults, import_functions
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.batches import Batch, BatchTransform
from rnnmnist.data.datasets import open_data_source
from rnnmnist.data.examples import Examples
from rnnmnist.data.image_datasets import image_task
from rnnmnist.errors import UserError
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.records import Record
from rnnmnist.runtime.compilation import compile_seconds
from rnnmnist.runtime.mesh import split_ensemble
from rnnmnist.training.loss import LOSS_FUNCTIONS, Objective
from rnnmnist.training.state import Program, create_state
from rnnmnist.training.step import train_chunk

# Code that is appended to the recipes in the documentation.
OTHERS = '''
HALF = jnp.float32(1) / 2  # initializes JAX's devices


class Sowing(Leaky):
    """Sows a penalty at each time step."""

    penalty: float = 0.0
    collection: str = "losses"

    @nn.compact
    def __call__(self, carry, inputs):
        carry = carry / 2 + nn.tanh(nn.Dense(self.features)(inputs))
        self.sow(self.collection, "activity", self.penalty * (1 + carry.mean() ** 2))
        return carry, carry


class Wide(Leaky):
    def __call__(self, carry, inputs):
        return carry, jnp.concatenate([carry, carry], axis=-1)


class Growing(Leaky):
    def __call__(self, carry, inputs):
        return jnp.concatenate([carry, carry], axis=-1), carry


class Sized(Leaky):
    def __init__(self, features, name, size):
        super().__init__(features, name=name)


class Dropping(Leaky):
    @nn.compact
    def __call__(self, carry, inputs):
        inputs = nn.Dropout(0.1, deterministic=False)(inputs)
        carry = carry / 2 + nn.tanh(nn.Dense(self.features)(inputs))
        return carry, carry


class Normalized(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, inputs, lengths, *, train):
        hidden = nn.BatchNorm(use_running_average=not train)(inputs)
        return nn.Dense(self.classes)(hidden.mean(axis=1))


class Halves(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, inputs, lengths, *, train):
        return nn.Dense(self.classes, param_dtype=jnp.bfloat16)(inputs.mean(axis=1))


class Fixed(nn.Module):
    classes: int

    def __call__(self, inputs, lengths, *, train):
        return jnp.zeros((len(inputs), self.classes))


class Pair(Fixed):
    def __call__(self, inputs, lengths, *, train):
        return inputs, lengths


class Plain:
    def __init__(self, classes):
        self.classes = classes


class Short(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, inputs, lengths, *, train):
        return nn.Dense(self.classes + 1)(inputs.mean(axis=1))


class Noisy(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, inputs, lengths, *, train):
        noise = jax.random.normal(self.make_rng("noise"), inputs.shape)
        return nn.Dense(self.classes)((inputs + noise).mean(axis=1))


def mean_loss(logits, labels):
    return focal(logits, labels).mean()


def infinite(logits, labels):
    return focal(logits, labels) * jnp.inf


def failing(*arguments, **parameters):
    raise RuntimeError("on purpose\\nwith a second line")


def injected(rate):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate)


def exiting(logits, labels):
    raise SystemExit(4)


def not_finite(logits, labels):
    return labels * jnp.nan


def wide(peak, num_steps):
    return lambda step: peak * jnp.ones(3)


def last(logits, labels):
    return focal(logits, labels)


def steep(peak, num_steps):
    return lambda step: -peak * step


def undefined(peak, num_steps):
    return lambda step: jnp.where(step == 3, jnp.nan, peak)


def branching(peak, num_steps):
    return lambda step: peak if step < 3 else 0.0


def longer(key, inputs, length):
    return jnp.concatenate([inputs, inputs])


def accuracy(logits, labels):
    return logits.argmax(-1) == labels


def levels(folder, mode="r"):
    inputs = np.load(f"{folder}/inputs.npy", mmap_mode=mode)
    others = {name: np.load(f"{folder}/{name}.npy") for name in ("labels", "split")}
    return {"inputs": inputs} | others


def no_inputs():
    return {"input": np.zeros((4, 3, 1)), "labels": [0, 1, 0, 1]}


number = 3
'''
# A custom function for each setting. `own.py` contains the recipes and `OTHERS`.
ROWS = {
    "network": "own.py:Attention,width=8,penalty=0.1",
    "cell": "own.py:Sowing,decay=0.9,penalty=0.1",
    "loss": "own.py:focal,gamma=1.5",
    "optimizer": "own.py:slower_body,factor=0.5",
    "schedule": "own.py:one_cycle",
    "metrics": "own.py:top_k+own.py:top_k,k=1",
    "augment": "own.py:jitter,std=0.5",
    "path": "own.py:levels,folder='data'",
}
SPLIT = np.where(np.arange(40) < 30, "train", "validation")


@pytest.fixture(autouse=True)
def promotions() -> Iterator[None]:
    """Allows JAX's implicit promotions, which custom functions may use."""
    changes = {
        "jax_numpy_rank_promotion": "allow",
        "jax_numpy_dtype_promotion": "standard",
    }
    with jax_settings(changes):
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which contains `own.py` and the data."""
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    with (tmp_path / "own.py").open("a") as file:
        file.write(OTHERS)
    (tmp_path / "data").mkdir()
    for name, array in {"inputs": INPUTS, "labels": LABELS, "split": SPLIT}.items():
        np.save(tmp_path / f"data/{name}.npy", array)
    return tmp_path


def settings_of(row: str) -> dict[str, Any]:
    """Returns the settings of a small run with one custom function."""
    settings = SMALL | {"path": "data", row: ROWS[row]}
    if row == "network":
        del settings["cell"], settings["hidden_size"]
    return settings


def train(workdir: Path | None, settings: dict[str, Any], **options: Any) -> Any:
    return rnnmnist.train(
        "trained", workdir=workdir, verbose=False, **settings, **options
    )


def fit(**settings: Any) -> rnnmnist.Model:
    """Trains a small network in memory."""
    all_settings = SMALL | settings
    if "network" in settings:
        del all_settings["cell"], all_settings["hidden_size"]
    return rnnmnist.fit(INPUTS, LABELS, split=SPLIT, verbose=False, **all_settings)


def kill_after_first_save(
    environment: dict[str, str], workdir: Path, arguments: list[str]
) -> None:
    """Trains in a process with slow saves, and kills it after the first save."""
    variables = environment | {"PYTHONPATH": trainer.PYTHONPATH}
    argv = *trainer.SLOW_SAVE, *arguments, f"--workdir={workdir}"
    process = subprocess.Popen(
        [sys.executable, *map(str, argv)], env=variables, stdout=subprocess.DEVNULL
    )
    while not (workdir / "10").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_stopped_and_killed_runs_resume_to_the_same_bits(
    row: str, folder: Path, environment: dict[str, str]
) -> None:
    """Later commands need only the flags for networks, cells and readers again."""
    settings = settings_of(row)
    load_settings = {row: ROWS[row]} if row in ("network", "cell") else {}
    model = train(folder / "whole", settings)
    default_model = train(None, SMALL | {"path": "data"})
    if row not in ("metrics", "path"):
        assert model.params_sha256 != default_model.params_sha256

    def interrupt(_: rnnmnist.StepMetrics) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(folder / "stopped", settings, callback=interrupt)
    arguments = ["--config=trained", *flags_of(settings)]
    kill_after_first_save(environment, folder / "killed", arguments)
    for name in ("stopped", "killed"):
        assert Record(folder / name).step in (10, 15)
        process = called("main", *arguments, f"--workdir={folder}/{name}")
        assert "resuming from step" in output_of(process)
        params_sha256 = rnnmnist.load(folder / name, 20, **load_settings).params_sha256
        assert params_sha256 == model.params_sha256, name

    (folder / "own.py").rename(folder / "moved.py")
    workdir = f"--workdir={folder}/whole"
    flags = []
    if row in ("network", "cell", "path"):
        part = (
            "set data.path to the path"
            if row == "path"
            else "whose code runs only if you specify it"
        )
        assert part in refused("evaluate", workdir)
        flags = flags_of({row: ROWS[row].replace("own.py", "moved.py")})
    output_of(called("evaluate", workdir, *flags))
    export = "--format=stablehlo", f"--output={folder}/exported"
    assert "10 of 10" in output_of(called("export", workdir, *flags, *export))
    np.savez(folder / "new.npz", inputs=INPUTS)
    if row != "path":
        output_of(called("predict", workdir, *flags, "new.npz"))


TASK = task_of(28, 28, 10)
EXAMPLES = Examples(
    random_examples(24).stored / np.float32(255),
    np.arange(24, dtype=np.int32) % 28 + 1,
    labels=random_examples(24).labels,
)


def train_members(settings: dict[str, Any], devices: int) -> list[Any]:
    """Returns each member's parameters and metrics after eight updates."""
    common: dict[str, Any] = {"train.batch_size": 16, "train.num_steps": 50}
    config = import_functions(run_config(common | settings))
    mesh = mesh_of(devices)
    program = Program.create(config, TASK, mesh)
    chunk = chunk_of(batches_of(EXAMPLES, config, mesh), 0)
    state, metrics = train_chunk(
        create_state(config, program),
        chunk,
        learning_rates_of(chunk, config),
        jnp.int32(0),
        jnp.int32(8),
        program=program,
    )
    return split_ensemble(jax.device_get((state.params, metrics)))


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize("kind", ["network", "cell"])
def test_devices_and_ensembles_change_only_the_rounding(
    kind: str, folder: Path
) -> None:
    """All functions are used together, on sequences of different lengths."""
    settings: dict[str, Any] = {
        "train.loss": ROWS["loss"],
        "train.optimizer": "optax:adam,b1=0.8",
        "train.schedule": ROWS["schedule"],
        "train.metrics": ROWS["metrics"],
        "data.augment": ROWS["augment"],
        f"model.{kind}": ROWS[kind],
    }
    if kind == "cell":
        settings |= {"model.hidden_size": 8, "model.dropout": 0.2, "model.window": 2}
    (expected,) = train_members(settings, 1)
    (two_devices,) = train_members(settings, 2)
    first, second = train_members(settings | {"num_seeds": 2}, 1)
    (single_network,) = train_members(settings | {"seed": 1}, 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=5e-4)
    jax.tree.map(close, two_devices, expected)
    jax.tree.map(close, first, expected)
    jax.tree.map(close, second, single_network)
    _, metrics = expected
    assert {"top_k", "top_k,k=1", "learning_rate"} < metrics.keys()
    np.testing.assert_allclose(metrics["top_k,k=1"], metrics["accuracy"])


# A setting, a wrong value, and part of the message.
WRONG = [
    ("cell", "own.py:Leeky", "own.py has no function Leeky; did you mean 'Leaky'"),
    ("cell", "own.py:number", "own.py has no function number"),
    ("cell", "own.py:Attention", "unexpected keyword argument 'features'"),
    ("cell", "own.py:Wide", "its output must have shape (2, 4), not"),
    ("cell", "own.py:Sized", "TypeError: "),
    ("cell", "own.py:Growing", "float32[2,8]"),
    ("cell", "own.py:Dropping", "Dropping fails: "),
    (
        "cell",
        "own.py:Sowing,collection=penalties",
        "an unsupported collection, penalties",
    ),
    ("cell", "broken.py:Leaky", "broken.py cannot be imported: NameError: name 'x'"),
    ("cell", "absent:Leaky", "No module named 'absent'"),
    ("network", "own.py:Attention,widht=3", "'widht'"),
    ("network", "own.py:Normalized", "an unsupported collection, batch_stats"),
    ("network", "own.py:Plain", "Plain fails: TypeError"),
    ("network", "own.py:Short", "its logits must have shape (2, 2), not (2, 3)"),
    ("network", "own.py:Halves", "its parameters must be float32, not bfloat16"),
    ("network", "own.py:Fixed", "it has no parameters"),
    ("network", "own.py:Pair", "Pair fails: TypeError"),
    ("network", "own.py:Noisy", "Noisy fails: InvalidRngError"),
    ("loss", "own.py:focal,gama=2", "'gama'"),
    ("loss", "own.py:focal,labels=2", "'labels'"),
    (
        "loss",
        "own.py:mean_loss",
        "for 2 examples must have shape (2,), not ()",
    ),
    (
        "loss",
        "own.py:failing",
        "RuntimeError: on purpose with a second line; ",
    ),
    ("loss", "own.py:exiting", "exiting fails: SystemExit: 4"),
    ("loss", "<memory>:focal", "<memory> cannot be imported"),
    ("optimizer", "optax:lino", "did you mean 'lion'"),
    ("optimizer", "own.py:focal", "focal fails: "),
    ("optimizer", "own.py:injected", "its state contains the learning rate"),
    ("optimizer", "own.py:failing", "failing fails: RuntimeError: on purpose with"),
    ("schedule", "own.py:steep", "but must be at least 0"),
    ("schedule", "own.py:wide", "its learning rates must have shape (20,)"),
    ("schedule", "own.py:undefined", "is nan, but must be at least 0"),
    ("schedule", "own.py:branching", "TracerBoolConversionError"),
    ("metrics", "own.py:accuracy", "two metrics have the name accuracy"),
    ("metrics", "own.py:top_k+own.py:top_k", "two metrics have the name top_k"),
    (
        "metrics",
        "own.py:mean_loss",
        "for 2 examples must have shape (2,), not ()",
    ),
    ("augment", "own.py:longer", "its result must have shape (5, 1), not (10, 1)"),
    ("augment", "own.py:failing", "failing fails: RuntimeError: on purpose with"),
]


@pytest.mark.parametrize(("name", "value", "part"), WRONG, ids=lambda value: "")
def test_a_wrong_function_raises_an_error_before_anything_is_written(
    name: str, value: str, part: str, folder: Path
) -> None:
    (folder / "broken.py").write_text("x")
    settings = SMALL | {"path": "data", "learning_rate": 7e-4} | {name: value}
    if name == "network":
        del settings["cell"], settings["hidden_size"]
    workdir = folder / "run"
    message = refused(
        "main", "--config=trained", *flags_of(settings), f"--workdir={workdir}"
    )
    section = "data" if name == "augment" else "train"
    section = "model" if name in ("cell", "network") else section
    assert message.startswith(f"{section}.{name}: ")
    assert part in message
    assert not workdir.exists()


def test_a_network_for_a_single_length_refuses_longer_sequences(folder: Path) -> None:
    network = folder / "flat.py"
    network.write_text(
        "import flax.linen as nn\n"
        "class Flat(nn.Module):\n"
        "    classes: int\n"
        "    @nn.compact\n"
        "    def __call__(self, inputs, lengths, train):\n"
        "        return nn.Dense(self.classes)(inputs.reshape(len(inputs), -1))\n"
    )
    settings: dict[str, Any] = {"network": "flat.py:Flat", "num_steps": 20}
    longer = list(np.tile(INPUTS[30:], (1, 2, 1)))
    split = np.where(np.arange(40) < 30, "train", "test")
    with pytest.raises(UserError, match=r"^model\.network: Flat fails: ScopeParam"):
        rnnmnist.fit([*INPUTS[:30], *longer], LABELS, split=split, **settings)
    model = fit(network="flat.py:Flat")
    assert model.classify(INPUTS).shape == (40, 2)
    with pytest.raises(UserError, match=r"^model\.network: Flat fails: ScopeParam"):
        model.classify(longer)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("train.label_smoothing", {"loss": ROWS["loss"], "label_smoothing": 0.1}),
        ("train.weight_decay", {"optimizer": "optax:lion", "weight_decay": 0.1}),
        (
            "train.warmup_fraction",
            {"schedule": ROWS["schedule"], "warmup_fraction": 0.02},
        ),
        ("model.hidden_size", {"network": ROWS["network"], "hidden_size": 3}),
        ("model.cell", {"network": ROWS["network"], "cell": "gru"}),
        ("train.loss", {"network": ROWS["network"], "loss": "every_step"}),
        ("train.loss", {"cell": "filters", "loss": ROWS["loss"]}),
        ("data.augment", {"cell": "filters", "augment": ROWS["augment"]}),
    ],
    ids=lambda value: "",
)
def test_settings_that_do_not_apply_raise_an_error(
    name: str, settings: dict[str, Any], folder: Path
) -> None:
    """Settings in a recipe are dropped, such as `label_smoothing` in `trained`."""
    with pytest.raises(UserError, match=f"^{name}: "):
        rnnmnist.fit(INPUTS, LABELS, verbose=False, **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_the_filters_configuration_accepts_only_a_reader(folder: Path) -> None:
    common = "--config=filters", f"--config.data.path={ROWS['path']}"
    for name, row in (("model.network", "network"), ("data.augment", "augment")):
        message = refused("main", *common, f"--config.{name}={ROWS[row]}")
        assert "has no effect" in message
    output_of(called("main", *common, f"--workdir={folder}/run"))


def test_a_reader_is_checked_and_its_arrays_stay_memory_mapped(folder: Path) -> None:
    source = open_data_source(DataConfig("files", path=ROWS["path"]))
    examples = source.load(Config(data=DataConfig("files"))).splits["train"]
    array: Any = examples.stored
    while not isinstance(array, np.memmap):
        array = array.base  # None at the end
    for reader, part in (
        ("own.py:levels,folder=absent", "levels,folder='absent' fails: FileNotFound"),
        (
            "own.py:no_inputs",
            "no_inputs: contains an unknown array 'input'; the arrays",
        ),
        ("own.py:failing", "failing fails: RuntimeError: on purpose with"),
    ):
        message = refused("main", "--config=files", f"--config.data.path={reader}")
        assert message.startswith("data.path: ")
        assert part in message


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_non_finite_loss_stops_the_run(folder: Path) -> None:
    with pytest.raises(rnnmnist.RunError, match=r"step 1 produced non-finite values"):
        fit(loss="own.py:infinite")


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_non_finite_metric_is_logged(folder: Path) -> None:
    model = fit(metrics="own.py:not_finite", num_steps=10)
    for line in model.record.lines:
        assert line.metrics is not None
        assert np.isnan(line.metrics["not_finite"]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_resume_compares_functions_by_their_sources(folder: Path) -> None:
    """The same function and parameters may be specified in several ways."""
    settings = SMALL | {"path": "data", "label_smoothing": 0}
    train(folder / "run", settings)
    with pytest.raises(UserError, match=r"FILE.py:last \(checkpoint: last\)"):
        train(folder / "run", settings | {"loss": "own.py:last"})
    settings["optimizer"] = optax.adam
    train(folder / "adam", settings)
    text_settings = settings | {"optimizer": "optax:adam"}
    assert train(folder / "adam", text_settings).record.step == 20
    (folder / "other.py").write_text("from optax import adam")
    with pytest.raises(UserError, match=r"FILE.py:adam \(checkpoint: optax:adam\)"):
        train(folder / "adam", settings | {"optimizer": "other.py:adam"})
    settings["optimizer"] = "optax:sgd,momentum=0.90"
    train(folder / "sgd", settings)
    train(folder / "sgd", settings | {"optimizer": "optax:sgd, momentum=0.9"})


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_the_log_contains_the_loss_and_results_the_cross_entropy(
    folder: Path,
) -> None:
    model = fit(loss=ROWS["loss"], num_seeds=2)
    logits = model.logits(model.dataset.splits["validation"])  # type: ignore[union-attr]
    labels = model.dataset.splits["validation"].labels  # type: ignore[union-attr]
    focal = import_function("train.loss", f"{folder}/{ROWS['loss']}")
    line = model.validation_metrics
    assert line is not None
    losses = [member.loss for member in line.members]
    expected = [float(focal(each, labels).mean()) for each in logits]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    result = model.evaluate()
    entropy = optax.softmax_cross_entropy_with_integer_labels
    expected = [float(entropy(each, labels).mean()) for each in logits]
    losses = [member.loss for member in result.members]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
@pytest.mark.parametrize("kind", ["network", "cell"])
def test_penalties_change_the_gradient_but_not_the_logged_loss(
    kind: str, folder: Path
) -> None:
    names = {"network": "Attention,dropout=0", "cell": "Sowing"}
    first_model, second_model = (
        fit(num_steps=1, log_every_steps=1, **{kind: f"own.py:{names[kind]},{penalty}"})
        for penalty in ("penalty=0.0", "penalty=1000.0")
    )
    first, second = first_model.record.lines[0], second_model.record.lines[0]
    assert first.loss == pytest.approx(second.loss, rel=1e-6)
    assert first.metrics is not None
    assert second.metrics is not None
    assert second.metrics["grad_norm"][0] > 10 * first.metrics["grad_norm"][0]


def test_the_penalties_of_a_cell_exclude_the_padding(folder: Path) -> None:
    """The parameters are 0, so the penalty of each time step is 1."""
    cell = import_function("model.cell", "own.py:Sowing,penalty=1.0")
    model = model_of(ModelConfig(cell=cell, hidden_size=4, window=2), TASK)
    zeros = jax.tree.map(np.zeros_like, random_params(model))
    loss = resolve_function("last", LOSS_FUNCTIONS, label_smoothing=0.0)
    lengths = np.array([28, 5, 1], np.int32)
    batch = Batch(
        inputs=jnp.zeros((3, 28, 28)),
        labels=jnp.zeros(3, jnp.int32),
        lengths=jnp.asarray(lengths),
        weights=None,
    )
    _, penalty = Objective(model, loss).apply_per_example(zeros, batch)
    assert float(penalty) == sum(-(-lengths // model.config.stride))


def test_an_augmentation_does_not_change_the_padding(folder: Path) -> None:
    settings = {"data.augment": "own.py:jitter", "train.batch_size": 24}
    config = import_functions(run_config(settings, TASK))
    transform = BatchTransform.create(config, TASK)
    source = batches_of(EXAMPLES, config, mesh_of(1))
    first, again, second = (read_batch(source, transform, step) for step in (0, 0, 1))
    plain = read_batch(source, transform._replace(augment=None), 0)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.lengths is not None
    is_read = np.arange(28)[None] < np.asarray(first.lengths)[:, None]
    assert not np.asarray(first.inputs)[~is_read].any()
    noise = np.asarray(first.inputs - plain.inputs)
    assert 0.08 < noise[is_read].std() < 0.12
    assert (first.inputs[0] != second.inputs[0]).any()


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_functions_from_a_notebook_only_train_in_memory(folder: Path) -> None:
    def squared(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return ((nn.softmax(logits) - nn.one_hot(labels, 2)) ** 2).sum(-1)

    class Linear(nn.Module):
        classes: int

        @nn.compact
        def __call__(
            self, inputs: jax.Array, lengths: jax.Array, *, train: bool
        ) -> jax.Array:
            return nn.Dense(self.classes)(inputs.mean(axis=1))

    model = fit(loss=squared, optimizer=optax.sgd)
    model.save(folder / "saved")
    assert str(rnnmnist.load(folder / "saved").config.train.loss).endswith("squared")
    assert copy.deepcopy(model).params_sha256 == model.params_sha256
    network = fit(network=Linear, num_steps=20)
    assert network.classify(INPUTS).shape == (40, 2)
    for act in (pickle.dumps, lambda model: model.save(folder / "network")):
        with pytest.raises(UserError, match=r"^model\.network: "):
            act(network)
    with pytest.raises(UserError, match=r"^train\.loss: "):
        rnnmnist.fit(INPUTS, LABELS, workdir=folder / "run", loss=squared)
    assert not (folder / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_a_pickle_contains_the_name_of_a_network_class(folder: Path) -> None:
    model = fit(network=ROWS["network"])
    model_copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model_copy.classify(INPUTS), model.classify(INPUTS))


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_the_scikit_learn_classifier_accepts_functions(folder: Path) -> None:
    settings = {"loss": ROWS["loss"], "optimizer": optax.sgd, "num_devices": 1}
    classifier = rnnmnist.RNNClassifier(num_steps=20, settings=settings)
    sklearn.base.clone(classifier).fit(INPUTS, LABELS).predict(INPUTS)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_changed_files_cause_warnings_and_changed_parameters_cause_errors(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SMALL | {"path": "data", "cell": "own.py:Leaky,decay=0.9"}
    train(folder / "run", settings | {"loss": ROWS["loss"]})
    with pytest.raises(UserError, match=r"gamma=2 \(checkpoint: .*,gamma=1\.5"):
        train(folder / "run", settings | {"loss": "own.py:focal,gamma=2"})
    with pytest.raises(UserError, match=r"must be FILE.py:Leaky,decay=0\.9"):
        rnnmnist.load(folder / "run", cell="own.py:Leaky")
    assert not caplog.messages
    file = folder / "own.py"
    file.write_text(file.read_text().replace("self.decay * carry", "self.decay"))
    model = rnnmnist.load(folder / "run", cell="own.py:Leaky,decay=0.9")
    model.classify(INPUTS)
    (message,) = caplog.messages
    assert message.startswith("model.cell: the file that defines ")
    train(folder / "run", settings | {"loss": ROWS["loss"], "num_steps": 30})
    assert any(text.startswith("train.loss: the file that") for text in caplog.messages)
    file.write_text(file.read_text().replace("nn.Dense(self.features)", "nn.Dense(3)"))
    with pytest.raises(UserError, match=r"Leaky,decay=0\.9 fails"):
        rnnmnist.load(folder / "run", cell="own.py:Leaky,decay=0.9")
    text = file.read_text().replace("nn.Dense(3)", "nn.Dense(self.features, name='b')")
    file.write_text(text)
    with pytest.raises(rnnmnist.RunError, match="in params, cell/Dense_0"):
        rnnmnist.load(folder / "run", cell="own.py:Leaky,decay=0.9")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:f,b=(0.9,0.99),c=[1,2]", {"b": (0.9, 0.99), "c": [1, 2]}),
        ("a.py:f,w=he_normal,x='a b:c,d'", {"w": "he_normal", "x": "a b:c,d"}),
        ("a:f,n=None,t=True,m=-1e-3", {"n": None, "t": True, "m": -1e-3}),
        ("a:f", {}),
        ("lstm", {}),
    ],
)
def test_parameters_are_parsed_like_keyword_arguments(
    text: str, expected: dict[str, Any]
) -> None:
    assert parse_parameters(text) == expected


def test_the_current_content_of_a_file_is_run(tmp_path: Path) -> None:
    """Other files with the same name, size and modification time were run before."""
    files = tmp_path / "a" / "flax.py", tmp_path / "b" / "flax.py"
    for number, file in enumerate([*files, *files]):
        file.parent.mkdir(exist_ok=True)
        library = file.parent / "installed/library.py"
        library.parent.mkdir(exist_ok=True)
        library.write_text("")
        neighbour = file.with_name("neighbour.py")
        neighbour.write_text(f"number = {len(str(file.parent.name)) + number}")
        os.utime(neighbour, (number, number))
        file.write_text(
            "import pathlib, sys\n"
            "sys.path.append(str(pathlib.Path(__file__).parent / 'installed'))\n"
            "import library, neighbour, flax.linen\n"
            "sys.path.pop()\n"
            f"class Cell:\n    number = {number}\n    other = neighbour.number\n"
        )
        os.utime(file, (0, 0))
        cell = import_function("model.cell", f"{file}:Cell")
        assert cell.function.number == number  # type: ignore[attr-defined]
        assert cell.function.other == number + 1  # type: ignore[attr-defined]
        assert "neighbour" not in sys.modules
        assert "library" in sys.modules
        assert import_function("model.cell", f"{file}:Cell") == cell
        names = {path.name for path in file.parent.iterdir()}
        assert names <= {"flax.py", "neighbour.py", "installed", "__pycache__"}
        assert str(file.parent) not in sys.path


def test_a_module_is_imported_as_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_cells").mkdir()
    (tmp_path / "own_cells" / "leaky.py").write_text("class Cell:\n    pass\n")
    cell = import_function("model.cell", "own_cells.leaky:Cell").function
    assert cell is sys.modules["own_cells.leaky"].Cell
    assert ModelConfig(cell=cell).cell == "own_cells.leaky:Cell"


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_an_edited_file_is_compiled_again_and_an_unchanged_file_is_not(
    folder: Path,
) -> None:
    settings = {"cell": "own.py:Leaky", "loss": ROWS["loss"]}
    first = fit(**settings)
    seconds = compile_seconds()
    second = fit(**settings)
    assert compile_seconds() == seconds
    file = folder / "own.py"
    file.write_text(file.read_text().replace("self.decay * carry", "0.25 * carry"))
    third = fit(**settings)
    assert compile_seconds() > seconds
    assert first.params_sha256 == second.params_sha256 != third.params_sha256


@pytest.mark.parametrize("name", ["cell", "network", "path"])
@pytest.mark.parametrize("is_file", [True, False])
def test_code_specified_in_a_checkpoint_is_never_run(
    name: str, is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have downloaded the code together with a run."""
    if name == "path" and not is_file:
        pytest.skip("a reader must be in a file")
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "marker"
    source = tmp_path / "download.py"
    source.write_text(
        "import pathlib\nfrom flax.linen import GRUCell as Cell\n"
        f"pathlib.Path({str(marker)!r}).touch()\n"
    )
    text = f"{source}:Cell" if is_file else "download:Cell"
    data = DataConfig(name="files" if name == "path" else "mnist5k")
    config = Config(data=data, model=ModelConfig(cell="gru", hidden_size=8))
    task = image_task(DataConfig(name="mnist5k"))
    params = {"params": as_ensemble(random_params(model_of(config.model, task)))}
    section = "data" if name == "path" else "model"
    config = fill_defaults(config.replace({f"{section}.{name}": text}), task)
    header = Header(step=3, config=config, task=task, metrics=None)
    checkpoints.save(tmp_path / "run", header, params)
    commands = [["evaluate"]]
    if name != "path":
        commands.append(["page", f"--output={tmp_path}/page.html"])
        commands.append(["export", "--format=all", f"--output={tmp_path}/out"])
    for arguments in commands:
        message = refused(*arguments, f"--workdir={tmp_path}/run")
        assert ("data.path: " if name == "path" else text) in message
        assert not marker.exists()
