"""A checkpoint that cannot be read is not called damaged, and nothing is renamed."""

import errno
import gc
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import REPOSITORY, file_times, fit_small, run_python

from rnnmnist.errors import RunError, UserError
from rnnmnist.runs.checkpoint_files import read_header
from rnnmnist.runs.workdir import list_steps
from rnnmnist.runtime.limits import needed_files, needed_threads
from rnnmnist.training import resume

ERRORS = errno.EMFILE, errno.ENOMEM, errno.EIO, errno.EACCES


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the steps 10 and 20."""
    return fit_small(tmp_path / "run")


class FailingOpen:
    """An audit hook that lets one `open` of a file below a folder fail."""

    def __init__(self) -> None:
        self.folder = ""  # no file
        self.remaining = 0  # calls before the one that fails
        self.error: BaseException = OSError()
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        """Is called before each file of this process is opened."""
        if not self.folder or event != "open" or self.folder not in str(args[0]):
            return
        self.remaining -= 1
        if self.remaining == -1:
            raise self.error


@pytest.fixture(scope="module")
def failing_open() -> FailingOpen:
    """The only hook, since it cannot be removed."""
    return FailingOpen()


def test_one_failed_open_renames_nothing(run: Path, failing_open: FailingOpen) -> None:
    """Of each file of a checkpoint that a resume reads, with every kind of error."""
    header = read_header(run, 20)
    before = file_times(run)
    generator = random.Random(0)
    for number in range(100):
        code = generator.choice(ERRORS)
        failing_open.error = OSError(code, "no", "file")
        if number % 10 == 0:
            failing_open.error = MemoryError()
        failing_open.remaining = number
        failing_open.folder = f"{run}/20/"
        try:
            with pytest.raises(RunError) as error:
                resume.find_start(header.config, header.task, run)
        except pytest.fail.Exception:
            break  # all files have been opened
        finally:
            failing_open.folder = ""
        assert not isinstance(error.value, UserError)
        assert str(run / "20") in str(error.value)
        assert "\n" not in str(error.value)
        assert file_times(run) == before, failing_open.error
    assert failing_open.remaining >= 0
    assert number > 3
    assert resume.find_start(header.config, header.task, run)[0] == 20


# Coroutines of orbax, which no thread awaits.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_resume_without_threads_renames_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a limit of processes, which root does not have."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = file_times(run)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RunError, match="can't start new thread") as error:
            fit_small(run, num_steps=30)
    assert not isinstance(error.value, UserError)
    del error  # whose frames have the coroutines
    gc.collect()
    after = file_times(run)
    saved = [path for path in before if path.relative_to(run).parts[0] in ("10", "20")]
    assert {path: after[path] for path in saved} == {
        path: before[path] for path in saved
    }
    fit_small(run, num_steps=30)
    assert list_steps(run) == [20, 30]


# Resumes copies of a run, with a few more descriptors each time.
FEW_DESCRIPTORS = """
import os, resource, shutil, sys
from pathlib import Path
from support import fit_small
from rnnmnist.errors import as_failure

run = Path(sys.argv[1])
fit_small(shutil.copytree(run, run.parent / "first" / "run"), num_steps=30)  # compiles
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
for free in range(2, 24, 3):
    copy = shutil.copytree(run, run.parent / str(free) / "run")
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(free):
        os.close(held.pop())
    try:
        fit_small(copy, num_steps=30)
    except Exception as error:
        print(as_failure(error) or f"no line: {error!r}")
    for descriptor in held:
        os.close(descriptor)
"""


@pytest.mark.slow
def test_a_resume_with_few_descriptors_renames_nothing(
    run: Path, unoptimized: dict[str, str]
) -> None:
    variables = unoptimized | {"PYTHONPATH": f"{REPOSITORY / 'tests'}"}
    finished = run_python("-c", FEW_DESCRIPTORS, run, environment=variables)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert len(lines) > 2
    assert not [line for line in lines if line.startswith("no line")]
    for copy in run.parent.glob("*/run"):
        assert list_steps(copy) in ([10, 20], [20, 30])
        assert not list(copy.glob("damaged-*"))


def run_limited(
    *arguments: object, environment: dict[str, str], threads: int, files: int
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` where it may have so many threads and open files.

    The limit of threads does not hold for root. The process keeps root's files, but is
    another user's, and has none of the capabilities that lift the limit.
    """
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("needs root, and setpriv of Linux")
    user = f"--ruid={random.randrange(10**5, 10**9)} --euid=0"
    lifting = "-sys_resource,-sys_admin"
    capabilities = f"--bounding-set={lifting} --inh-caps={lifting}"
    limits = f"prlimit --nproc={threads}:{threads} --nofile={files}:{files}"
    return subprocess.run(
        [
            *f"setpriv {user} {capabilities} {limits}".split(),
            sys.executable,
            *map(str, arguments),
        ],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [
        ({"threads": needed_threads()}, "ulimit -u"),  # Python needs two more
        ({"files": needed_files()}, "ulimit -n"),
    ],
)
def test_a_command_without_threads_or_files_fails_in_one_line(
    tmp_path: Path, environment: dict[str, str], limits: dict[str, int], remedy: str
) -> None:
    """Before a library of jax, orbax or NumPy ends the process."""
    training = "-m", "rnnmnist.main", "--config=embedded", f"--workdir={tmp_path}/run"
    limits = {"threads": 1000, "files": 1000} | limits
    finished = run_limited(*training, environment=environment, **limits)
    assert finished.returncode == 1, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert remedy in line
    assert not finished.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_threads_and_files_that_commands_ask_for_are_enough(
    tmp_path: Path, data_dir: Path, unoptimized: dict[str, str]
) -> None:
    """Training reads records, compiles, evaluates and saves at the same time."""
    for command in (
        f"main --config=embedded --config.data.data_dir={data_dir} "
        "--config.train.num_steps=20 --config.train.eval_every_steps=5",
        "evaluate",
        "report",
        f"export --format=all --output={tmp_path}/exports",
    ):
        name, *arguments = command.split()
        finished = run_limited(
            "-m",
            *(["rnnmnist.main"] if name == "main" else ["rnnmnist", name]),
            *arguments,
            f"--workdir={tmp_path}/run",
            environment=unoptimized,
            threads=needed_threads() + 2,
            files=needed_files() + 6,
        )
        assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_a_machine_without_a_temporary_folder_is_told_so(run: Path) -> None:
    """As a container with a read-only root has none. No home can be written, either."""
    program = (
        "import sys, tempfile, rnnmnist\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc']\n"
        "try: rnnmnist.load(sys.argv[1]).report()\n"
        "except rnnmnist.UserError as error: print(error)\n"
    )
    variables = {"HOME": "/proc/none", "MPLCONFIGDIR": "/proc/none"}
    variables |= {"JAX_PLATFORMS": "cpu"}
    variables |= {"JAX_COMPILATION_CACHE_DIR": str(run.parent / "programs")}
    finished = run_python("-c", program, run, environment=variables)
    (line,) = finished.stdout.splitlines()
    assert "set the environment variable TMPDIR" in line
