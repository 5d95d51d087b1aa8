"""Which exceptions are failures with a line of their own."""

import errno
from pathlib import Path

import pytest

from rnnmnist.errors import (
    Failure,
    RunError,
    UserError,
    as_failure,
    set_missing_filename,
)


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
    ],
)
def test_an_internal_fault_keeps_its_traceback(error: Exception) -> None:
    assert as_failure(error) is None


def test_an_error_without_a_path_gets_one(tmp_path: Path) -> None:
    for given, named in ((None, tmp_path), ("/other", "/other")):
        with pytest.raises(OSError) as error, set_missing_filename(tmp_path):
            raise OSError(errno.EINVAL, "invalid", given)
        assert str(as_failure(error.value)) == f"{named}: invalid"
