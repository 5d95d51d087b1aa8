"""Base cases: the simplest use of each command and function, on each kind of run.

`TABLE` lists the expected outcomes. Either the use succeeds (`done`), or it raises a
one-line error that contains the setting, argument or file in the table. A command that
fails exits with code 2 (`rnnmnist doctor` with 1) and leaves the workdir unchanged.

All runs except the shipped model have the same sequences and share compiled programs.
Each test uses a copy of its run, in a new folder.
"""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support import (
    INPUTS,
    LABELS,
    REPOSITORY,
    SMALL,
    Once,
    called,
    disconnect,
    file_times,
    fit_small,
    flags_of,
)

import rnnmnist
from rnnmnist.data import image_datasets
from rnnmnist.errors import UserError
from rnnmnist.exporting import formats
from rnnmnist.exporting.comparison import NUM_RANDOM_EXAMPLES
from rnnmnist.runs.logs import StepMetrics
from rnnmnist.runs.workdir import list_steps, lock

# Each row is a use, and each column is a run:
# - shipped: the shipped model, whose data are not on this machine
# - finished: a finished run
# - training: the killed run with a locked workdir, as if a process were training it
# - killed: a copy of the finished run, made at its first checkpoint
# - begun: a run that was killed before its first checkpoint
# - ensemble: a finished run with two seeds
# - moved: a finished run whose data file has been moved
TABLE = """
               shipped         finished training killed   begun   ensemble moved
main           workdir         done     workdir  done     done    done     levels.npz
evaluate       data.manual_dir done     done     done     workdir done     data.path
predict_image  done            five.jpg five.jpg five.jpg workdir five.jpg five.jpg
predict_file   levels.npz      done     done     done     workdir done     done
predict_stream done            done     done     done     workdir done     done
report         data.manual_dir done     done     done     workdir done     data.path
page           done            workdir  workdir  workdir  workdir workdir  workdir
export         data.manual_dir done     done     done     workdir done     done
doctor         workdir         done     workdir  done     done    done     levels.npz
fit            workdir         done     workdir  done     done    done     done
methods        done            done     done     done     workdir done     done
"""

COUNT = len(INPUTS)
FIRST, STEPS = 10, 20  # the steps of the first and last checkpoints
EXAMPLES = 4  # in the evaluated split
DIGIT = REPOSITORY / "docs/five.jpg"


class Run(NamedTuple):
    """A run that a test may change, and the arguments for the commands that use it."""

    workdir: Path
    arrays: tuple[np.ndarray, np.ndarray]  # inputs and labels
    path: Path  # the run's sequences; other sequences for the shipped model
    folder: Path  # for files that a test writes
    train_flags: list[str]  # flags of `rnnmnist.main`, except the workdir
    data_flags: Sequence[str] = ()  # the data's location, for other commands
    num_seeds: int = 1
    is_shipped: bool = False

    @property
    def step(self) -> int:
        """The step of the last checkpoint; 0 if there is no checkpoint."""
        return max(list_steps(self.workdir), default=0)

    @property
    def workdir_flag(self) -> list[str]:
        """The flag for commands that use the shipped model by default."""
        return [] if self.is_shipped else [f"--workdir={self.workdir}"]

    @property
    def sequence(self) -> np.ndarray:
        """The first sequence, a float array of shape [time, features]."""
        if self.is_shipped:
            return self.arrays[0][0] / 255
        return rnnmnist.read_sequences(self.path)[0][0]


def contents(folder: Path) -> dict[Path, bytes]:
    """Returns the content of each file in a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in paths}


def output(name: str, *arguments: object) -> str:
    """Returns the output of a command, which must not print warnings.

    If the command fails, its error line is raised as a `UserError`.
    """
    process = called(name, *arguments)
    if process.returncode == 0:
        assert process.stderr == "" or "random" in process.stderr
        return process.stdout
    assert process.returncode == (1 if name == "doctor" else 2), process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    raise UserError(line)


def main(run: Run) -> None:
    start_step, files = run.step, contents(run.workdir)
    text = output("main", f"--workdir={run.workdir}", *run.train_flags)
    if start_step == STEPS:
        assert f"complete at step {STEPS}\n" in text
        assert contents(run.workdir) == files
    elif start_step:
        assert f"resuming from step {start_step}\n" in text
    assert run.step == STEPS


def evaluate(run: Run) -> None:
    text = output("evaluate", f"--workdir={run.workdir}", *run.data_flags)
    assert f" at step {run.step}: " in text
    result = json.loads(Path(text.splitlines()[-1]).read_text())
    assert result["examples"] == EXAMPLES
    members = result.get("members", [result])
    assert len(members) == run.num_seeds
    losses = [
        f"{result[name]:.4f}" for name in ("loss", "ensemble_loss") if name in result
    ]
    pattern = "mean loss {}, ensemble {}" if run.num_seeds > 1 else ", loss {}"
    assert pattern.format(*losses) in text


def predict_image(run: Run) -> None:
    result = json.loads(output("predict", *run.workdir_flag, "--json", DIGIT))
    assert (result["file"], result["digit"]) == (str(DIGIT), 5)
    assert np.shape(result["probabilities"]) == (28, 10)


def predict_file(run: Run) -> None:
    lines = output("predict", *run.workdir_flag, run.path).splitlines()
    assert len(lines) == COUNT
    for line in lines:
        assert re.fullmatch(r".+, sequence .+: (low|high), \d+\.\d\d %", line)


def predict_stream(run: Run) -> None:
    rows = [",".join(map(str, values)) for values in run.sequence.tolist()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("\n".join(rows)))
        lines = output("predict", *run.workdir_flag, "--stream").splitlines()
    times = [json.loads(line)["step"] for line in lines]
    assert times == list(range(1, len(rows) + 1))


def report(run: Run) -> None:
    text = output("report", f"--workdir={run.workdir}", *run.data_flags)
    path = Path(text.splitlines()[-1])
    assert path == run.workdir / "report/index.html"
    content = path.read_text().replace("\N{NO-BREAK SPACE}", " ")
    accuracy, *_ = re.findall(r"\d+\.\d\d %", text)
    assert accuracy in content
    counts = re.findall(r"; ensemble \S+ % \((\d+) of ", text)
    assert len(counts) == (run.num_seeds > 1)
    assert all(f"classifies {count} sequences correctly" in content for count in counts)


def page(run: Run) -> None:
    path = run.folder / "draw.html"
    assert str(path) in output("page", f"--output={path}", *run.workdir_flag)
    assert "</html>" in path.read_text()


def export(run: Run) -> None:
    flags = f"--workdir={run.workdir}", f"--output={run.folder}", "--format=all"
    output("export", *flags, *run.data_flags)
    for name in formats.FORMATS:
        certificate = json.loads((run.folder / name / "certificate.json").read_text())
        is_random = certificate["split"] == "drawn"
        assert certificate["examples"] == (
            NUM_RANDOM_EXAMPLES if is_random else EXAMPLES
        )
        assert (certificate["correct"] is None) == is_random
        assert certificate["differing"] == 0


def doctor(run: Run) -> None:
    flag = "--num_processes=1"
    text = output("doctor", f"--workdir={run.workdir}", flag, *run.train_flags)
    assert "would work here" in text
    if 0 < run.step < STEPS:
        assert f" from step {run.step}\n" in text


def fit(run: Run) -> None:
    settings = SMALL | {"num_seeds": run.num_seeds, "verbose": False}
    model = rnnmnist.fit(*run.arrays, workdir=run.workdir, **settings)
    assert model.workdir == run.workdir
    assert run.step == STEPS


def methods(run: Run) -> None:
    """Classifies sequences, reads a stream and computes the occlusion in Python."""
    model = rnnmnist.load(run.workdir)
    inputs, _ = run.arrays
    probabilities = model.classify(inputs)
    assert probabilities.shape == (len(inputs), len(model.task.classes))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    state = model.start()
    for values in run.sequence:
        state, last_probabilities = model.step(state, values)
    np.testing.assert_allclose(last_probabilities, probabilities[0], atol=1e-5)
    attributions = model.occlusion(inputs)
    assert attributions.shape == (len(inputs), model.task.time_steps)
    assert np.isfinite(attributions).all()
    assert attributions.any()


USES: dict[str, Callable[[Run], None]] = {
    use.__name__: use
    for use in (
        main,
        evaluate,
        predict_image,
        predict_file,
        predict_stream,
        report,
        page,
        export,
        doctor,
        fit,
        methods,
    )
}


def cases() -> Iterator[tuple[str, str, str]]:
    """Yields the run, use and expected outcome of each test."""
    columns, *rows = (line.split() for line in TABLE.strip().splitlines())
    for index, name in enumerate(columns, 1):
        for row in rows:
            yield name, row[0], row[index]


def write(folder: Path) -> Path:
    """Writes the sequences to a file."""
    path = folder / "levels.npz"
    np.savez(path, inputs=INPUTS, labels=LABELS)
    return path


def train_run(folder: Path, name: str) -> None:
    """Trains the run for a column of `TABLE`, in a new folder."""
    folder.mkdir()
    workdir = folder / "run"
    if name == "moved":
        path = write(folder)
        output("main", f"--workdir={workdir}", *training_flags(path))
        path.rename(folder / "moved.npz")
        return

    def copy(metrics: StepMetrics) -> None:
        if metrics.step == FIRST:
            shutil.copytree(workdir, folder / "killed")

    fit_small(workdir, num_seeds=2 if name == "ensemble" else 1, callback=copy)


@pytest.fixture
def run(
    name: str, request: pytest.FixtureRequest, once: Once, tmp_path: Path
) -> Iterator[Run]:
    """A copy of the run for a column of `TABLE`."""
    if name == "shipped":
        yield shipped_run(request.getfixturevalue("monkeypatch"), tmp_path)
        return
    is_killed = name in ("training", "killed", "begun")
    kind = "finished" if is_killed else name
    shared = once(f"base_{kind}", lambda folder: train_run(folder, kind))
    source = shared / ("killed" if is_killed else "run")
    workdir = shutil.copytree(source, tmp_path / "run")
    if name == "begun":
        shutil.rmtree(workdir / str(FIRST))
    path = train_path = workdir / "arrays.data"  # written by `fit`
    if name == "moved":
        path, train_path = shared / "moved.npz", shared / "levels.npz"
    num_seeds = 2 if name == "ensemble" else 1
    flags = training_flags(train_path, num_seeds)
    arrays = INPUTS, LABELS
    with lock(workdir) if name == "training" else contextlib.nullcontext():
        yield Run(workdir, arrays, path, tmp_path, flags, num_seeds=num_seeds)


def training_flags(path: Path, num_seeds: int = 1) -> list[str]:
    """Returns the flags of `rnnmnist.main` for a run on sequences."""
    settings = SMALL | {"path": path, "num_seeds": num_seeds}
    return ["--config=files", *flags_of(settings)]


def shipped_run(patch: pytest.MonkeyPatch, folder: Path) -> Run:
    """Returns the shipped model, on a machine without its data."""
    workdir = REPOSITORY / "checkpoints/reference"
    disconnect(patch)
    data_flags = [f"--config.data.data_dir={folder}"]
    flags = ["--config=default", *data_flags]
    images, labels = image_datasets.embedded_images()["test"]
    arrays = images[:2], labels[:2]
    path = write(folder)
    return Run(workdir, arrays, path, folder, flags, data_flags, is_shipped=True)


@pytest.mark.usefixtures("fast_programs", "unrendered")
@pytest.mark.parametrize(("name", "use", "expected"), [*cases()])
def test_each_use_has_the_outcome_in_the_table(
    use: str, run: Run, expected: str
) -> None:
    if expected == "done":
        USES[use](run)
        return
    times = file_times(run.workdir)
    with pytest.raises(UserError) as error:
        USES[use](run)
    message = str(error.value)
    assert expected in message
    assert "\n" not in message
    assert file_times(run.workdir) == times
