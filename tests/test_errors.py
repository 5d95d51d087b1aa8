"""Which exceptions are failures with a line of their own."""

import errno
from pathlib import Path

import pytest

from rnnmnist import cli
from rnnmnist.errors import RunError, UserError, as_run_error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("seed: no"), UserError, "seed: no"),
        (FileNotFoundError(errno.ENOENT, "no file", "/a"), UserError, "/a: no file"),
        (OSError(errno.ENOSPC, "full", Path("/a")), RunError, "/a: full"),
        (OSError(errno.ENOSPC, "full"), RunError, "full"),
    ],
)
def test_a_failure_has_one_line(
    error: Exception, kind: type[RunError], message: str
) -> None:
    found = as_run_error(error)
    assert type(found) is kind
    assert str(found) == message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        BrokenPipeError(errno.EPIPE, "broken pipe"),
        ConnectionError("no network"),
        FileNotFoundError(errno.ENOENT, "no file", Path(cli.__file__)),
    ],
)
def test_an_internal_fault_keeps_its_traceback(error: Exception) -> None:
    assert as_run_error(error) is None
