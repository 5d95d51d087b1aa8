"""A Flax cell of the user's own, as `model.cell`."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    INPUTS,
    LABELS,
    REPOSITORY,
    SMALL,
    as_ensemble,
    called,
    fit_small,
    flags_of,
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
def test_a_run_with_a_users_cell(cell_file: Path, tmp_path: Path) -> None:
    """Trains, and evaluates and resumes with the file in another place."""
    np.savez(tmp_path / "levels.npz", inputs=INPUTS, labels=LABELS)
    # The paths are relative to the current directory.
    settings = SMALL | {"path": "levels.npz", "cell": "leaky.py:Leaky"}
    arguments = ["--config=files", f"--workdir={tmp_path}/run", *flags_of(settings)]
    trained = output_of(called("main", *arguments))
    assert "Leaky with 4 units on levels" in trained
    printed = dict(line.partition(" ")[::2] for line in trained.splitlines())
    words = shlex.split(printed["evaluate"])
    output_of(called("evaluate", *(word for word in words if word.startswith("--"))))

    cell_file.rename(tmp_path / "elsewhere.py")
    flag = f"--workdir={tmp_path}/run"
    lost = f"--config.model.cell={cell_file}:Leaky"
    assert "leaky.py does not run: FileNotFound" in refused("evaluate", flag, lost)
    other = "--config.model.cell=elsewhere.py:Wide"
    assert "must be the Leaky of the run, not" in refused("evaluate", flag, other)
    here = "--config.model.cell=elsewhere.py:Leaky"
    output_of(called("evaluate", flag, here))
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


def test_a_file_is_run_as_it_is_now(tmp_path: Path) -> None:
    """Also one of the same name, or of the same size and age, as one that was run."""
    files = tmp_path / "a" / "flax.py", tmp_path / "b" / "flax.py"
    for number, file in enumerate([*files, *files]):
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"import flax.linen\nclass Cell:\n    number = {number}\n")
        os.utime(file, (0, 0))
        found: Any = import_cell(f"{file}:Cell")
        assert found.number == number
        assert import_cell(f"{file}:Cell") is found
        assert [path.name for path in file.parent.iterdir()] == ["flax.py"]


def test_a_module_is_imported_as_python_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_cells").mkdir()
    (tmp_path / "own_cells" / "leaky.py").write_text("class Cell:\n    pass\n")
    cell = import_cell("own_cells.leaky:Cell")
    assert cell is sys.modules["own_cells.leaky"].Cell


@pytest.mark.slow
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


@pytest.mark.parametrize("is_file", [True, False])
def test_a_checkpoint_never_names_the_code_that_runs(
    is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that somebody was given has a file beside it."""
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "marker"
    source = tmp_path / "download.py"
    source.write_text(
        "import pathlib\nfrom flax.linen import GRUCell as Cell\n"
        f"pathlib.Path({str(marker)!r}).touch()\n"
    )
    cell = f"{source}:Cell" if is_file else "download:Cell"
    config = Config(data=DataConfig(name="mnist5k"), model=ModelConfig("gru", 8))
    task = image_task(config.data)
    params = {"params": as_ensemble(random_params(model_of(config.model, task)))}
    named = fill_defaults(config.replace({"model.cell": cell}), task)
    header = Header(step=3, config=named, task=task, metrics=None)
    checkpoints.save(tmp_path / "run", header, params)
    page = "page", f"--output={tmp_path}/page.html"
    for arguments in (["evaluate"], page):
        assert cell in refused(*arguments, f"--workdir={tmp_path}/run")
        assert not marker.exists()
