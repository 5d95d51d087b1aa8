"""Helper functions and constants that tests share."""

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
from rnnmnist.data.image_datasets import image_task
from rnnmnist.data.placement import BatchSource, open_batches
from rnnmnist.errors import ExpectedError, to_expected_error
from rnnmnist.models.classifier import SequenceClassifier, make_model
from rnnmnist.models.parameters import Params, abstract_params
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.metrics import Metrics
from rnnmnist.runtime.mesh import BATCH, ENSEMBLE
from rnnmnist.training.optimizer import compute_learning_rates

REPOSITORY = Path(__file__).resolve().parent.parent
# The folder of the original data files, if it exists; see CONTRIBUTING.md.
ORIGINALS = Path(os.environ.get("RNNMNIST_ORIGINALS") or "no originals")
TASK = image_task(DataConfig())  # MNIST
ROWS = View("rows", "bit_reversal")
# Variables for commands: programs compile in half of the time, but run slower.
UNOPTIMIZED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
FUNCTIONS_PAGE = "docs/functions.md"
Command = Callable[..., subprocess.CompletedProcess[str]]
Once = Callable[[str, Callable[[Path], None]], Path]  # see conftest.py


transformed = jax.jit(BatchTransform.__call__, static_argnums=0)


def run_config(settings: Mapping[str, object], task: Task = TASK) -> RunConfig:
    """Returns the configuration of a run on a task, from settings with full names."""
    return resolve(Config().replace(settings), task)


def batches_of(examples: Examples, config: RunConfig, mesh: Mesh) -> BatchSource:
    """Returns a run's batches, which the devices gather."""
    config = config.replace({"execution.placement": "device"})
    with open_batches(examples, config, mesh) as source:  # no thread to end
        return source


def chunk_of(source: BatchSource, step: int) -> Chunk:
    """Returns the chunk that contains the batch of update `step`."""
    ((chunk, _, _),) = source.chunks(step, step + 1)
    return chunk


def learning_rates_of(chunk: Chunk, config: RunConfig) -> jax.Array:
    """Returns the learning rate of each update of a chunk."""
    return compute_learning_rates(
        chunk.start,
        config=config.train,
        num_updates=chunk.batches.labels.shape[1],
        sharding=chunk.start.sharding,
    )


def read_batch(
    source: BatchSource,
    transform: BatchTransform,
    step: int,
    shard: int = 0,
    num_shards: int = 1,
) -> Batch:
    """Returns the first member's batch, or a shard of it, as NumPy arrays."""
    chunk = jax.device_get(chunk_of(source, step))
    size = transform.batch_size // num_shards
    own = slice(shard * size, (shard + 1) * size)
    position = step - chunk.start
    stored = jax.tree.map(lambda leaf: leaf[0, position, own], chunk.batches)
    batch: Batch = jax.device_get(
        transformed(transform, stored, chunk.seeds[0], step, shard)
    )
    return batch


def mesh_of(count: int, members: int = 1) -> Mesh:
    """Returns a mesh of the first `count` simulated devices."""
    devices = np.array(jax.devices()[:count]).reshape(members, -1)
    return Mesh(devices, (ENSEMBLE, BATCH), axis_types=(AxisType.Auto,) * 2)


def random_examples(count: int, seed: int = 0) -> Examples:
    """Returns random images, which are all different, with random labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    # A generator draws other numbers as int32 than as uint8.
    labels = generator.integers(0, 10, count, np.uint8)
    return Examples(images, labels=labels.astype(np.int32))


def inputs_of(images: np.ndarray) -> np.ndarray:
    """Converts uint8 images to float32 inputs in [0, 1], with rows as time steps."""
    return images.astype(np.float32) / 255


def model_of(
    config: ModelConfig = ModelConfig(),  # noqa: B008
    task: Task = TASK,
) -> SequenceClassifier:
    """Returns the classifier of a configuration, with the CPU's execution settings."""
    given = import_functions(Config(model=config))
    execution = Execution.create(given, "cpu")
    model = make_model(fill_defaults(given, task).model, task, execution)
    assert isinstance(model, SequenceClassifier)
    return model


def task_of(time_steps: int, features: int, classes: int) -> Task:
    """Returns a task of the given sizes, with a single training example."""
    names = tuple(map(str, range(max(features, classes))))
    return Task(
        "none",
        time_steps,
        features,
        names[:classes],
        dict.fromkeys(SPLITS, 0) | {"train": 1},
        feature_names=names[:features],
    )


def poison(params: Params, member: int) -> Params:
    """Sets a parameter of one member of an ensemble to NaN."""

    def with_nan(leaf: jax.Array) -> jax.Array:
        return leaf.at[member, 0].set(jnp.nan)

    head = {**params["head"], "bias": with_nan(params["head"]["bias"])}
    return {**params, "head": head}


def random_params(model: SequenceClassifier) -> Params:
    """Draws parameters from a normal distribution, in NumPy, without compilation."""
    generator = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: (0.35 * generator.normal(size=leaf.shape)).astype(np.float32),
        abstract_params(model),
    )
    if model.config.deltas:
        std = np.linspace(0.5, 2, model.input_shape[1], dtype=np.float32)
        params |= {"deltas": {"std": std}}
    if "filters" in params:  # scales logits as in other networks
        params["head"]["kernel"] *= 0.1
    return params


def as_ensemble(params: Params) -> Params:
    """Adds the ensemble axis of checkpoints to the parameters of one network."""
    return jax.tree.map(lambda leaf: leaf[None], params)


def leaves_by_path(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its path, such as `cell/hf/bias`.

    Named tuples and the dictionaries that orbax restores for them have equal paths.
    """
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def array_checksums(tree: Any) -> dict[str, str]:
    """Returns the SHA-256 of the dtype, shape and values of each array, by path."""
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
    """Makes a line of `metrics.jsonl`, with a member for each item of `correct`."""
    members = [
        Metrics(seed=seed, examples=examples, correct=count, loss=loss)
        for seed, (count, loss) in enumerate(
            zip(correct, losses, strict=True), first_seed
        )
    ]
    return StepMetrics(
        members=tuple(members),
        step=step,
        split=split,
        examples_per_second=examples_per_second,
    )


def save_network(workdir: Path, config: Config, task: Task) -> Path:
    """Saves random parameters as step 3 of a run, and returns its workdir.

    The temperature is not 1, so that code that ignores it computes other probabilities.
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


# Sequences of two classes, and settings of `fit` for a small run. Runs share compiled
# programs even if the number of sequences or steps differs.
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
    """Makes every download fail, as on a machine without a network."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        patch.setenv(name, "http://127.0.0.1:9")


def fit_small(workdir: Path, **settings: Any) -> Path:
    """Trains a small run, silently by default, and returns its workdir."""
    given = SMALL | {"verbose": False} | settings
    rnnmnist.fit(INPUTS, LABELS, workdir=workdir, **given)
    return workdir


def flags_of(settings: Mapping[str, object]) -> list[str]:
    """Converts settings of `fit` to flags of a command."""
    full_names = {name.rpartition(".")[2]: name for name in SETTINGS}
    return [f"--config.{full_names[name]}={value}" for name, value in settings.items()]


@contextlib.contextmanager
def data_warnings() -> Iterator[list[str]]:
    """Yields a list, which contains the messages of data warnings after the block."""
    messages: list[str] = []
    with warnings.catch_warnings(
        record=True, action="always", category=rnnmnist.DataWarning
    ) as warned:
        try:
            yield messages
        finally:
            messages += [str(warning.message) for warning in warned]


def called(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Calls a command in this process. The result is the same as from `command`.

    Calls share compiled programs. An internal error is raised.
    """
    command = "train" if name == "main" else name
    module = importlib.import_module(f"rnnmnist.commands.{command}")
    argv = [str(argument) for argument in arguments]
    # After a process has used jax, it cannot join other processes.
    argv += ["--num_processes=1"] if name == "main" else []
    output = io.TextIOWrapper(io.BytesIO())  # like `sys.stdout`
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
    except SystemExit as ended:  # by `predict`, after errors of files
        assert isinstance(ended.code, int)
        code = ended.code
    except (ExpectedError, OSError) as error:
        found = to_expected_error(error)
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
    """Runs `python ARGUMENTS` until it exits."""
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
    """Returns the output of a command that must have exited with 0."""
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def one_line_error(finished: subprocess.CompletedProcess[str]) -> str:
    """Returns the only line on stderr of a command that must have exited with 2."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2, finished.stderr
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in finished.stdout
    return lines[0]


def refused(name: str, *arguments: object) -> str:
    """Calls a command in this process, and returns the message of its error."""
    return one_line_error(called(name, *arguments)).removeprefix("error: ")


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Damages content at random: flips a bit, truncates, inserts or deletes bytes."""
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
    """Returns each path in a folder with its modification time, False for folders."""
    paths = list(folder.rglob("*"))
    return {path: path.is_file() and path.stat().st_mtime_ns for path in paths}


def code_blocks(page: str, language: str) -> list[str]:
    """Returns a page's code blocks in one language."""
    text = (REPOSITORY / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def write_recipes(folder: Path) -> list[str]:
    """Writes `own.py` from the page on functions, and returns the page's programs."""
    blocks = code_blocks(FUNCTIONS_PAGE, "python")
    programs = [block for block in blocks if "rnnmnist.train(" in block]
    recipes = [block for block in blocks if block not in programs]
    (folder / "own.py").write_text("\n\n".join(recipes))
    return programs


def run_block(
    language: str, text: str, folder: Path, environment: dict[str, str]
) -> str:
    """Runs a code block in a folder, with this Python, and returns its output."""
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
    """Returns True if an output ends with the lines that a page shows.

    A line `...` matches any lines. A number matches any number, since results,
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
    """Changes settings of jax in all threads of this process, within the block."""
    before = {name: jax.config.values[name] for name in changes}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def fast_compilation() -> contextlib.AbstractContextManager[None]:
    """Disables most compiler optimizations in this process, as in fast tests."""
    return jax_settings({"jax_disable_most_optimizations": True})
