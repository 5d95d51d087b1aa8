"""Helpers shared by tests, besides fixtures."""

import contextlib
import hashlib
import importlib
import io
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import rnnmnist
from rnnmnist.commands import command_line
from rnnmnist.config.platforms import Execution
from rnnmnist.config.resolving import (
    RunConfig,
    fill_defaults,
    import_functions,
    resolve,
)
from rnnmnist.config.schema import SETTINGS, Config, DataConfig, ModelConfig
from rnnmnist.config.tasks import Task
from rnnmnist.data.batches import Batch, BatchTransform, Chunk
from rnnmnist.data.examples import SPLITS, Examples, View
from rnnmnist.data.image_sets import image_task
from rnnmnist.data.placement import BatchSource, open_batches
from rnnmnist.errors import Failure, as_failure
from rnnmnist.models.classifier import SequenceClassifier, make_model
from rnnmnist.models.parameters import Params, abstract_params
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import Metrics
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE
from rnnmnist.training.optimizer import compute_learning_rates

REPOSITORY = Path(__file__).resolve().parent.parent
# A folder with the original data files, if there is one; see CONTRIBUTING.md.
ORIGINALS = Path(os.environ.get("RNNMNIST_ORIGINALS") or "no originals")
TASK = image_task(DataConfig())  # MNIST
ROWS = View("rows", "bit_reversal")
# Of commands whose programs are compiled in half of the time, and run slower.
UNOPTIMIZED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
OWN_FUNCTIONS = "docs/functions.md"
Command = Callable[..., subprocess.CompletedProcess[str]]
Once = Callable[[str, Callable[[Path], None]], Path]  # see conftest.py


transformed = jax.jit(BatchTransform.__call__, static_argnums=0)


def run_config(settings: Mapping[str, object], task: Task = TASK) -> RunConfig:
    """The configuration of a run on a task with some settings, by their full names."""
    return resolve(Config().replace(settings), task)


def batches_of(examples: Examples, config: RunConfig, mesh: Mesh) -> BatchSource:
    """The batches of a run, gathered on the devices."""
    config = config.replace({"execution.placement": "device"})
    with open_batches(examples, config, mesh) as source:  # without a thread
        return source


def chunk_of(source: BatchSource, step: int) -> Chunk:
    """The chunk that has the batch of update `step`."""
    ((chunk, _, _),) = source.chunks(step, step + 1)
    return chunk


def learning_rates_of(chunk: Chunk, config: RunConfig) -> jax.Array:
    """The learning rates of a chunk's updates."""
    return compute_learning_rates(
        chunk.start,
        config=config.train,
        updates=chunk.batches.labels.shape[1],
        sharding=chunk.start.sharding,
    )


def read_batch(
    source: BatchSource,
    transform: BatchTransform,
    step: int,
    shard: int = 0,
    num_shards: int = 1,
) -> Batch:
    """The first network's batch of update `step`, or a shard of it, in NumPy."""
    chunk = jax.device_get(chunk_of(source, step))
    size = transform.batch_size // num_shards
    own = slice(shard * size, (shard + 1) * size)
    position = step - chunk.start
    stored = jax.tree.map(lambda leaf: leaf[0, position, own], chunk.batches)
    batch: Batch = jax.device_get(
        transformed(transform, stored, chunk.seeds[0], step, shard)
    )
    return batch


def mesh_of(count: int, seeds: int = 1) -> Mesh:
    """Returns a mesh of some of the eight simulated devices."""
    devices = np.array(jax.devices()[:count]).reshape(seeds, -1)
    return Mesh(devices, (ENSEMBLE, BATCH), axis_types=(AxisType.Auto,) * 2)


def random_examples(count: int, seed: int = 0) -> Examples:
    """Returns distinct images of noise, with random labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    # Drawn as uint8, whose stream differs from that of int32.
    labels = generator.integers(0, 10, count, np.uint8)
    return Examples(images, labels=labels.astype(np.int32))


def inputs_of(images: np.ndarray) -> np.ndarray:
    """Returns uint8 images as a network reads them row by row, in float32."""
    return images.astype(np.float32) / 255


def model_of(
    config: ModelConfig = ModelConfig(),  # noqa: B008
    task: Task = TASK,
) -> SequenceClassifier:
    """Returns the classifier of a configuration, as the CPU runs it by default."""
    given = import_functions(Config(model=config))
    execution = Execution.create(given, "cpu")
    model = make_model(fill_defaults(given, task).model, task, execution)
    assert isinstance(model, SequenceClassifier)
    return model


def task_of(time_steps: int, features: int, classes: int) -> Task:
    """Returns a task of these sizes, with a single example."""
    names = tuple(map(str, range(max(features, classes))))
    return Task(
        "none",
        time_steps,
        features,
        names[:classes],
        dict.fromkeys(SPLITS, 0) | {"train": 1},
        feature_names=names[:features],
    )


def poison(params: Params, network: int) -> Params:
    """Returns parameters of an ensemble, one of which is NaN in one network."""

    def with_nan(leaf: jax.Array) -> jax.Array:
        return leaf.at[network, 0].set(jnp.nan)

    head = {**params["head"], "bias": with_nan(params["head"]["bias"])}
    return {**params, "head": head}


def random_params(model: SequenceClassifier) -> Params:
    """Returns NumPy arrays of normal noise as parameters, without compilation."""
    generator = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: (0.35 * generator.normal(size=leaf.shape)).astype(np.float32),
        abstract_params(model),
    )
    if model.config.deltas:
        std = np.linspace(0.5, 2, model.input_shape[1], dtype=np.float32)
        params |= {"deltas": {"std": std}}
    if "filters" in params:  # logits are of the size of those of other networks
        params["head"]["kernel"] *= 0.1
    return params


def as_ensemble(params: Params) -> Params:
    """Adds the ensemble axis that checkpoints have to the parameters of a network."""
    return jax.tree.map(lambda leaf: leaf[None], params)


def leaves_by_path(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its path as `cell/hf/bias`.

    orbax restores named tuples as dictionaries, of which a path says nothing.
    """
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def array_checksums(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of the type, shape and values of each array, by its path."""
    checksums = {}
    for name, leaf in leaves_by_path(tree):
        array = np.asarray(leaf)
        content = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
        checksums[name] = hashlib.sha256(content).hexdigest()
    return checksums


def make_metrics(
    step: int,
    split: str,
    examples: int,
    correct: Sequence[int],
    losses: Sequence[float],
    examples_per_second: float | None = None,
    first_seed: int = 0,
) -> StepMetrics:
    """A line of `metrics.jsonl`."""
    networks = [
        Metrics(seed=seed, examples=examples, correct=count, loss=loss)
        for seed, (count, loss) in enumerate(
            zip(correct, losses, strict=True), first_seed
        )
    ]
    return StepMetrics(
        members=tuple(networks),
        step=step,
        split=split,
        examples_per_second=examples_per_second,
    )


def save_network(workdir: Path, config: Config, task: Task) -> Path:
    """Saves random parameters as step 3 of a run; returns its workdir.

    Code that ignores the temperature gives other probabilities.
    """
    params = random_params(model_of(config.model, task))
    factors = np.linspace(1, -1, config.num_seeds, dtype=np.float32)
    deltas = params.get("deltas")
    params = jax.tree.map(lambda leaf: np.multiply.outer(factors, leaf), params)
    if deltas is not None:
        params |= {"deltas": {"std": np.tile(deltas["std"], (config.num_seeds, 1))}}
    metrics = make_metrics(3, "validation", 500, [250], [1.0])
    filled = fill_defaults(config, task)
    header = Header(step=3, config=filled, task=task, metrics=metrics, temperature=0.6)
    checkpoints.save(workdir, header, {"params": params})
    return workdir


# Sequences of two classes, and the settings of `fit` for a small run. Runs that differ
# in the number of sequences or steps share compiled programs.
LABELS = np.array(["low", "high"])[np.arange(40) % 2]
MEANS = (LABELS == "high")[:, None, None]
INPUTS = np.random.default_rng(0).normal(MEANS, size=(40, 5, 1))
SMALL: dict[str, Any] = {
    "cell": "lstm",
    "hidden_size": 4,
    "batch_size": 8,
    "num_steps": 20,
    "log_every_steps": 5,
    "eval_every_steps": 10,
    "num_devices": 1,
}


def disconnect(patch: pytest.MonkeyPatch) -> None:
    """Lets each download fail, as on a machine without a network."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        patch.setenv(name, "http://127.0.0.1:9")


def fit_small(workdir: Path, **settings: Any) -> Path:
    """Trains a small run quietly, perhaps with other settings."""
    given = SMALL | {"verbose": False} | settings
    rnnmnist.fit(INPUTS, LABELS, workdir=workdir, **given)
    return workdir


def flags_of(settings: Mapping[str, object]) -> list[str]:
    """Returns the flags of a command for settings of `fit`."""
    full_names = {name.rpartition(".")[2]: name for name in SETTINGS}
    return [f"--config.{full_names[name]}={value}" for name, value in settings.items()]


@contextlib.contextmanager
def data_warnings() -> Iterator[list[str]]:
    """Collects the messages of all warnings about data, at the end of the block."""
    messages: list[str] = []
    with warnings.catch_warnings(
        record=True, action="always", category=rnnmnist.DataWarning
    ) as warned:
        try:
            yield messages
        finally:
            messages += [str(warning.message) for warning in warned]


def called(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Calls a command in this process, and returns what `command` would.

    The programs of one call serve the next. An internal fault is raised.
    """
    command = "train" if name == "main" else name
    module = importlib.import_module(f"rnnmnist.commands.{command}")
    argv = [str(argument) for argument in arguments]
    # A process that has used jax can join no others.
    argv += ["--num_processes=1"] if name == "main" else []
    output = io.TextIOWrapper(io.BytesIO())  # as `sys.stdout` is
    errors, code = io.StringIO(), 0
    handler = logging.StreamHandler(errors)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("rnnmnist").addHandler(handler)
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            data_warnings() as messages,
        ):
            module.main(argv)
    except SystemExit as ended:  # of `predict`, after lines about files
        assert isinstance(ended.code, int)
        code = ended.code
    except (Failure, OSError) as error:
        found = as_failure(error)
        if found is None:
            raise
        print(f"error: {command_line.format_error(found)}", file=errors)
        code = found.exit_code
    finally:
        logging.getLogger("rnnmnist").removeHandler(handler)
    for message in messages:
        print(f"warning: {message}", file=errors)
    output.seek(0)
    texts = output.read(), errors.getvalue()
    return subprocess.CompletedProcess([name, *argv], code, *texts)


def run_python(
    *arguments: object,
    environment: dict[str, str] | None = None,
    cwd: Path = REPOSITORY,
    input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        input=input,
        capture_output=True,
        text=True,
        timeout=300,
    )


def output_of(finished: subprocess.CompletedProcess[str]) -> str:
    """Returns what a command printed that exited with 0."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def one_line_error(finished: subprocess.CompletedProcess[str]) -> str:
    """Returns the only line on stderr of a command that exited with 2."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in finished.stdout
    return lines[0]


def refused(name: str, *arguments: object) -> str:
    """Calls `rnnmnist.NAME` in this process and returns the message of its error."""
    return one_line_error(called(name, *arguments)).removeprefix("error: ")


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Flips a bit of, cuts, inserts into, or deletes from a file at a random place."""
    start, end = np.sort(generator.integers(0, len(content), 2))
    kind = generator.integers(4)
    if kind == 0:
        flipped = bytes([content[start] ^ 1 << generator.integers(8)])
        return content[:start] + flipped + content[start + 1 :]
    if kind == 1:
        return content[:start]
    if kind == 2:
        return content[:start] + generator.bytes(1 + end % 8) + content[start:]
    return content[:start] + content[min(end, start + 8) :]


def file_times(folder: Path) -> dict[Path, int]:
    """Returns all paths in a folder, and when each file was changed."""
    paths = list(folder.rglob("*"))
    return {path: path.is_file() and path.stat().st_mtime_ns for path in paths}


def code_blocks(page: str, language: str) -> list[str]:
    """Returns the blocks of code in a language on a page of this repository."""
    text = (REPOSITORY / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def write_recipes(folder: Path) -> list[str]:
    """Writes `own.py` of the page on own functions; returns the programs after it."""
    blocks = code_blocks(OWN_FUNCTIONS, "python")
    programs = [block for block in blocks if "rnnmnist.train(" in block]
    recipes = [block for block in blocks if block not in programs]
    (folder / "own.py").write_text("\n\n".join(recipes))
    return programs


def run_block(
    language: str, text: str, folder: Path, environment: dict[str, str]
) -> str:
    """Runs a block of a page in a folder, with this `python`; returns its output."""
    shell = ["bash", "-ec"] if language == "sh" else [sys.executable, "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    finished = subprocess.run(
        [*shell, text],
        cwd=folder,
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert finished.returncode == 0, f"{text}\n{finished.stderr}"
    return finished.stdout


def agrees(printed: str, shown: str) -> bool:
    """Returns whether an output ends as a page shows it.

    A line `...` matches any lines, and a number matches any number, since results,
    durations and the number of devices depend on the machine.
    """
    printed, shown = (
        re.sub(r"\d[\d,.]*", "0", text.replace("devices", "device"))
        for text in (printed, shown)
    )
    pattern = re.escape(shown).replace(re.escape("...\n"), "(?:.*\n)*?")
    return re.search(rf"^{pattern}\Z", printed, re.MULTILINE) is not None


@contextlib.contextmanager
def jax_settings(changes: Mapping[str, object]) -> Iterator[None]:
    """Changes settings of jax for all threads of this process."""
    before = {name: jax.config.values[name] for name in changes}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def fast_compilation() -> contextlib.AbstractContextManager[None]:
    """Compiles in this process as all fast tests do, also in a slow one."""
    return jax_settings({"jax_disable_most_optimizations": True})
