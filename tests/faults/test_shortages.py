"""If a checkpoint cannot be read, it is neither reported as damaged nor renamed."""

import errno
import random
import sys
from pathlib import Path

import pytest
from support import file_times, fit_small

from rnnmnist.errors import RunError, UserError
from rnnmnist.runs.records import Record
from rnnmnist.runs.workdir import list_steps

ERRORS = errno.EMFILE, errno.ENOMEM, errno.EIO, errno.EACCES


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at steps 10 and 20."""
    return fit_small(tmp_path / "run")


class FailingOpen:
    """An audit hook that makes one read of a file or listing of a folder fail."""

    def __init__(self) -> None:
        self.folder = ""  # nothing fails
        self.remaining = 0  # reads before the failure
        self.error: BaseException = OSError()
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.folder or event not in ("open", "os.scandir"):
            return
        if self.folder not in str(args[0]):
            return
        self.remaining -= 1
        if self.remaining == -1:
            raise self.error


@pytest.fixture(scope="module")
def failing_open() -> FailingOpen:
    """One hook for all tests, since hooks cannot be removed."""
    return FailingOpen()


def test_one_failed_open_renames_nothing(run: Path, failing_open: FailingOpen) -> None:
    """Each read of a checkpoint by a resume fails once, with one of several errors."""
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
                Record(run).begin(None)
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
    Record(run).begin(None)
    assert list_steps(run) == [10, 20]
