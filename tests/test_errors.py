"""Expected errors have a one-line message, and internal errors keep a traceback."""

import errno
import pickle
from pathlib import Path

import pytest

from rnnmnist.errors import (
    ExpectedError,
    RunError,
    StoppedError,
    UserError,
    set_missing_filename,
    to_expected_error,
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
def test_an_expected_error_has_a_one_line_message(
    error: Exception, kind: type[ExpectedError], message: str
) -> None:
    failure = to_expected_error(error)
    assert type(failure) is kind
    assert str(failure) == message


@pytest.mark.parametrize("error", [UserError("no"), StoppedError("a message", 15)])
def test_an_error_can_be_pickled(error: Exception) -> None:
    """A `ProcessPoolExecutor` pickles errors."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        BrokenPipeError(errno.EPIPE, "broken pipe"),
        ConnectionError("no network"),
    ],
)
def test_an_internal_error_keeps_its_traceback(error: Exception) -> None:
    assert to_expected_error(error) is None


def test_a_path_is_added_to_an_error_without_a_path(tmp_path: Path) -> None:
    for filename, path in ((None, tmp_path), ("/other", "/other")):
        with pytest.raises(OSError) as error, set_missing_filename(tmp_path):
            raise OSError(errno.EINVAL, "invalid", filename)
        assert str(to_expected_error(error.value)) == f"{path}: invalid"
