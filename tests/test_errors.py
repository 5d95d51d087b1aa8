"""Which exceptions are failures with a line of their own."""

import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnmnist.commands import command_line
from rnnmnist.data.sequences.reading import read_memory
from rnnmnist.errors import (
    SHIPPED,
    Failure,
    RunError,
    StoppedError,
    UserError,
    as_failure,
    prefix_errors,
    set_missing_filename,
)

REPORT = SHIPPED / "checkpoints" / "reference" / "report"  # of a model in a wheel


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("seed: no"), UserError, "seed: no"),
        (FileNotFoundError(errno.ENOENT, "no file", "/a"), UserError, "/a: no file"),
        (OSError(errno.ENOSPC, "full", Path("/a")), RunError, "/a: full"),
        (OSError(errno.ENOSPC, "full"), RunError, "full"),
        (PermissionError(errno.EACCES, "no", REPORT), UserError, f"{REPORT}: no"),
    ],
)
def test_a_failure_has_one_line(
    error: Exception, kind: type[Failure], message: str
) -> None:
    found = as_failure(error)
    assert type(found) is kind
    assert str(found) == message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        BrokenPipeError(errno.EPIPE, "broken pipe"),
        ConnectionError("no network"),
        FileNotFoundError(errno.ENOENT, "no file", Path(command_line.__file__)),
    ],
)
def test_an_internal_fault_keeps_its_traceback(error: Exception) -> None:
    assert as_failure(error) is None


def test_an_error_without_a_path_gets_one(tmp_path: Path) -> None:
    for given, named in ((None, tmp_path), ("/other", "/other")):
        with pytest.raises(OSError) as error, set_missing_filename(tmp_path):
            raise OSError(errno.EINVAL, "invalid", given)
        assert str(as_failure(error.value)) == f"{named}: invalid"


def test_an_error_of_a_worker_process_reaches_its_pool() -> None:
    error = StoppedError("saved step 3", 15)
    with pytest.raises(Failure) as prefixed, prefix_errors("run"):
        raise error
    copy = pickle.loads(pickle.dumps(prefixed.value))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.exit_code == error.exit_code


@pytest.mark.parametrize(
    "inputs", [[["a"], ["b"]], [[1.0], np.ma.masked_array([1.0], [True])]]
)
def test_the_line_of_an_error_is_not_wrapped_into_another(inputs: Any) -> None:
    with pytest.raises(UserError, match=r"^inputs: (has|is) "):
        read_memory(inputs, {})
