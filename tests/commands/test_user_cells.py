"""A Flax cell of the user's own, as `model.cell`."""

import dataclasses
import io
import json
import os
import pickle
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from support import (
    INPUTS,
    LABELS,
    REPOSITORY,
    SMALL,
    Command,
    as_ensemble,
    called,
    fit_small,
    flags_of,
    make_metrics,
    model_of,
    output_of,
    random_params,
    refused,
)

import rnnmnist
from rnnmnist.config.resolving import fill_defaults
from rnnmnist.config.schema import Config, DataConfig, ModelConfig
from rnnmnist.data.image_sets import image_task
from rnnmnist.errors import UserError
from rnnmnist.models.cells import resolve_cell
from rnnmnist.models.user_cells import import_cell
from rnnmnist.runs import checkpoints
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runtime.compilation import compile_seconds

PAGE = (REPOSITORY / "docs/reference.md").read_text()
CELL = PAGE.split("```python\n")[1].split("```")[0]
OTHERS = """
HALF = jnp.float32(1) / 2  # initializes jax's devices


class NotACell:
    pass


class Wide(Leaky):
    def __call__(self, carry, inputs):
        return carry, jnp.concatenate([carry, carry], axis=-1)


class Sized(Leaky):
    size: int


class Dropping(Leaky):
    @nn.compact
    def __call__(self, carry, inputs):
        inputs = nn.Dropout(0.1, deterministic=False)(inputs)
        carry = carry / 2 + nn.tanh(nn.Dense(self.features)(inputs))
        return carry, carry


class Counting(Leaky):
    @nn.compact
    def __call__(self, carry, inputs):
        count = self.variable("counts", "steps", lambda: jnp.zeros(()))
        count.value += 1
        return carry + nn.Dense(self.features)(inputs), carry


number = 3
"""


@pytest.fixture
def cell_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the current directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "leaky.py"
    file.write_text(CELL + OTHERS)
    return file


@pytest.mark.slow
def test_a_run_with_a_users_cell(
    command: Command, cell_file: Path, tmp_path: Path
) -> None:
    """Trains, and evaluates and resumes with the file in another place."""
    content = cell_file.read_text()
    np.savez(tmp_path / "levels.npz", inputs=INPUTS, labels=LABELS)
    # The paths are relative to the current directory.
    settings = SMALL | {"path": "levels.npz", "cell": "leaky.py:Leaky"}
    arguments = ["--config=files", f"--workdir={tmp_path}/run", *flags_of(settings)]
    trained = command("main", *arguments, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "Leaky with 4 units on levels" in trained.stdout
    model = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert model["cell"] == f"{cell_file}:Leaky"
    (path,) = (tmp_path / "run/evaluation").iterdir()
    # Of the cell, which reads a value and its difference, and of the head.
    number = (2 + 1) * 4 + (4 + 1) * 2
    assert json.loads(path.read_text())["num_parameters"] == number

    evaluation = f"--workdir={tmp_path}/run", f"--config.model.cell={cell_file}:Leaky"
    cell_file.unlink()
    assert "leaky.py: No such file" in refused("evaluate", *evaluation)
    cell_file.with_name("elsewhere.py").write_text(content)
    for cell in ("gru", "elsewhere.py:Wide"):
        flags = f"--workdir={tmp_path}/run", f"--config.model.cell={cell}"
        assert "cell: must be the Leaky of the run, not" in refused("evaluate", *flags)
    here = "--config.model.cell=elsewhere.py:Leaky"
    output_of(called("evaluate", f"--workdir={tmp_path}/run", here))
    cell_file.write_text(content)
    printed = dict(line.partition(" ")[::2] for line in trained.stdout.splitlines())
    words = shlex.split(printed["evaluate"])
    output_of(called("evaluate", *(word for word in words if word.startswith("--"))))
    resumed = called("main", *arguments, here, "--config.train.num_steps=30")
    assert "resuming from step 20" in output_of(resumed)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("leaky.py:Leeky", "leaky.py must define a class Leeky"),
        ("leaky.py:NotACell", "must be a flax.linen.RNNCellBase that"),
        ("leaky.py:Wide", "its output is (2, 128), not (2, 64)"),
        ("leaky.py:Sized", ": TypeError: "),
        ("leaky.py:Dropping", "random numbers (as of nn.Dropout)"),
        ("leaky.py:Counting", "state other than its carry"),
        ("broken.py:Leaky", "broken.py does not run: NameError: name 'x'"),
    ],
)
def test_a_wrong_class_is_refused(
    cell: str, message: str, cell_file: Path, tmp_path: Path
) -> None:
    cell_file.with_name("broken.py").write_text("x")
    config = Config(model=ModelConfig(cell=f"{tmp_path}/{cell}", hidden_size=64))
    model = fill_defaults(config, image_task(config.data)).model
    with pytest.raises(UserError, match=r"^model\.cell: ") as error:
        resolve_cell(model)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def number_of(cell: str) -> int:
    """The attribute of the class, which is the same in the next import."""
    found: int = import_cell(cell).number
    assert import_cell(cell) is import_cell(cell)
    return found


def test_a_file_is_run_as_it_is_now(tmp_path: Path) -> None:
    """Also one of the same name, or of the same size and age, as one that was run."""
    files = tmp_path / "a" / "flax.py", tmp_path / "b" / "flax.py"
    for number, file in enumerate([*files, *files]):
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"import flax.linen\nclass Cell:\n    number = {number}\n")
        os.utime(file, (0, 0))
        assert number_of(f"{file}:Cell") == number
        assert [path.name for path in file.parent.iterdir()] == ["flax.py"]


def test_a_module_is_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run anew after a change, as Python does it."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_cells" / "leaky.py"
    file.parent.mkdir()
    file.with_name("__init__.py").touch()
    file.with_name("base.py").write_text("class Base:\n    number = 1\n")
    file.write_text("from .base import Base\nclass Cell(Base):\n    pass\n")
    assert number_of("own_cells.leaky:Cell") == 1
    assert sys.modules["own_cells.leaky"].Cell.number == 1
    file.write_text("class Cell:\n    number = 2\n")
    assert number_of("own_cells.leaky:Cell") == 1


def test_an_estimator_names_its_cell(
    cell_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after pickling, in another folder."""
    others = {"num_devices": 1, "eval_every_steps": 10}
    classifier = rnnmnist.RNNClassifier(
        cell="leaky.py:Leaky", hidden_size=4, num_steps=20, settings=others
    )
    classifier.fit(INPUTS, LABELS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    restored = pickle.loads(pickle.dumps(classifier))
    expected = classifier.predict_proba(INPUTS)
    np.testing.assert_array_equal(restored.predict_proba(INPUTS), expected)


@pytest.mark.usefixtures("fast_programs")
def test_an_edited_file_is_run_anew_and_an_unedited_one_compiles_nothing(
    cell_file: Path, tmp_path: Path
) -> None:
    cell = f"{cell_file}:Leaky"
    fit_small(tmp_path / "first", cell=cell)
    before = compile_seconds()
    fit_small(tmp_path / "second", cell=cell)
    assert compile_seconds() == before
    cell_file.write_text(CELL.replace("carry / 2", "carry / 3"))
    fit_small(tmp_path / "third", cell=cell)
    assert compile_seconds() > before
    first, second, third = (
        rnnmnist.load(tmp_path / name, cell=cell).params_sha256
        for name in ("first", "second", "third")
    )
    assert first == second != third


def save_run(workdir: Path, cell: str) -> None:
    """Saves a run on digits that needs Flax's GRU under the name of a user's cell."""
    data = DataConfig(name="mnist5k")
    model = ModelConfig("gru", hidden_size=8, window=1)
    task = image_task(data)
    params = random_params(model_of(model, task))
    own = dataclasses.replace(model, cell=cell)
    metrics = make_metrics(3, "validation", 500, [250], [1.0])
    config = fill_defaults(Config(data=data, model=own), task)
    header = Header(step=3, config=config, task=task, metrics=metrics)
    checkpoints.save(workdir, header, {"params": as_ensemble(params)})


READERS = {
    "evaluate": (),
    "predict": ("--stream",),
    "report": (),
    "export": ("--format=stablehlo", "--output=exported"),
    "page": ("--output=page.html",),
}


@pytest.mark.parametrize("reader", [*READERS, "load"])
def test_a_checkpoint_never_names_the_code_that_runs(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    """A run that somebody was given has a file beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "marker"
    source = tmp_path / "download.py"
    source.write_text(
        "import pathlib\nfrom flax.linen import GRUCell as Cell\n"
        f"pathlib.Path({str(marker)!r}).touch()\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n"))
    for index, cell in enumerate((f"{source}:Cell", "download:Cell")):
        run = tmp_path / str(index) / "run"
        save_run(run, cell)
        try:
            message = refusal_of(reader, run, data_dir)
        finally:
            assert not marker.exists()
        assert cell in message


def refusal_of(reader: str, run: Path, data_dir: Path) -> str:
    """The message with which a command, or `load`, refuses a run."""
    if reader == "load":
        with pytest.raises(UserError) as error:
            rnnmnist.load(run)
        return str(error.value)
    flags = [f"--workdir={run}", *READERS[reader]]
    if reader != "page":
        flags.append(f"--config.data.data_dir={data_dir}")
    return refused(reader, *flags)
