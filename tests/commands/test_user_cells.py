"""A Flax cell in a file of the user's own, as `model.cell`."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from support import REPOSITORY, Command, called, output_of, refused

from rnnmnist import evaluate
from rnnmnist.config.files import pin_cell
from rnnmnist.config.schema import Config, ModelConfig
from rnnmnist.errors import UserError
from rnnmnist.models.cells import check_user_cell, load_cell

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


number = 3
"""


@pytest.fixture
def cell_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the current directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "leaky.py"
    file.write_text(CELL + OTHERS)
    return file


def test_a_run_with_a_users_cell(
    command: Command, data_dir: Path, cell_file: Path, tmp_path: Path
) -> None:
    """Trains, refuses a changed file, and evaluates with the original, also moved."""
    content = f"{CELL}{OTHERS}# No other test loads this content in this process."
    cell_file.write_text(content)
    arguments = (
        f"--workdir={tmp_path}/run",
        f"--config.data.data_dir={data_dir}",
        "--config.model.cell=leaky.py:Leaky",  # relative to the current directory
        "--config.model.hidden_size=16",
        "--config.model.pooling=mean",
        "--config.train.num_steps=2",
    )
    trained = command("main", *arguments, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "Leaky with 16 units on mnist5k" in trained.stdout
    model = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert model["cell"] == f"{cell_file}:Leaky"
    assert model["cell_sha256"] == hashlib.sha256(content.encode()).hexdigest()
    result = json.loads((tmp_path / "run/evaluation/test-2.json").read_text())
    assert result["num_parameters"] == 28 * 16 + 16 + 170

    cell_file.write_text(CELL.replace("carry / 2", "carry / 3"))
    changed = refused("evaluate", f"--workdir={tmp_path}/run")
    lost = f"--config.model.cell: the checkpoint's cell is missing: {cell_file} with "
    assert lost in changed
    refusal = refused("main", *arguments, "--num_processes=1")
    assert "belongs to another run: model.cell_sha256=" in refusal
    cell_file.unlink()
    assert lost in refused("evaluate", f"--workdir={tmp_path}/run")
    cell_file.with_name("elsewhere.py").write_text(content)
    for cell in ("gru", "elsewhere.py:Wide"):
        flags = f"--workdir={tmp_path}/run", f"--config.model.cell={cell}"
        assert "cell: must be the Leaky of the run, not" in refused("evaluate", *flags)
    here = "--config.model.cell=elsewhere.py:Leaky"
    evaluate.main([f"--workdir={tmp_path}/run", here])
    resumed = called("main", *arguments, here, "--config.train.num_steps=3")
    assert "resuming from step 2" in output_of(resumed)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("leaky.py:Leeky", "leaky.py must define a class Leeky"),
        ("leaky.py:number", "leaky.py must define a class number"),
        ("leaky.py:NotACell", "must be a flax.linen.RNNCellBase that"),
        ("leaky.py:Wide", "its output is (2, 128), not (2, 64)"),
        ("leaky.py:Sized", "created with features=64 and scanned: TypeError"),
        ("broken.py:Leaky", "broken.py does not run: NameError: name 'x'"),
    ],
)
def test_a_wrong_class_is_refused(
    cell: str, message: str, cell_file: Path, tmp_path: Path
) -> None:
    cell_file.with_name("broken.py").write_text("x")
    config = Config(model=ModelConfig(cell=f"{tmp_path}/{cell}", hidden_size=64))
    with pytest.raises(UserError, match=r"^model\.cell: ") as error:
        check_user_cell(pin_cell(config).model)
    assert message in str(error.value)


def test_a_cell_has_the_content_of_its_file_and_no_cache(tmp_path: Path) -> None:
    file = tmp_path / "cell.py"
    for number in (1, 2):  # of one size and age
        file.write_text(f"class Cell:\n    number = {number}\n")
        os.utime(file, (0, 0))
        assert load_cell(f"{file}:Cell", None).number == number
    assert [path.name for path in tmp_path.iterdir()] == ["cell.py"]
