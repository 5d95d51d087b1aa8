"""Expected errors have a one-line message, and internal errors keep a traceback."""

import errno
import importlib
import pickle
import pkgutil
from pathlib import Path

import pytest

import rnnmnist
from rnnmnist.errors import (
    Failure,
    RunError,
    StoppedError,
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
def test_an_expected_error_has_a_one_line_message(
    error: Exception, kind: type[Failure], message: str
) -> None:
    failure = as_failure(error)
    assert type(failure) is kind
    assert str(failure) == message


def test_every_error_of_the_package_can_be_pickled() -> None:
    """A `ProcessPoolExecutor` pickles errors. A copy has the same fields."""
    for module in pkgutil.walk_packages(rnnmnist.__path__, "rnnmnist."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = {Exception}
    while new := {child for kind in kinds for child in kind.__subclasses__()} - kinds:
        kinds |= new
    package_kinds = {kind for kind in kinds if kind.__module__.startswith("rnnmnist.")}
    assert {UserError, RunError, StoppedError, rnnmnist.DataWarning} <= package_kinds
    for kind in package_kinds:
        arguments = ("a message", 15) if kind is StoppedError else ("a message",)
        error = kind(*arguments)
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert (str(copy), vars(copy)) == ("a message", vars(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        BrokenPipeError(errno.EPIPE, "broken pipe"),
        ConnectionError("no network"),
    ],
)
def test_an_internal_error_keeps_its_traceback(error: Exception) -> None:
    assert as_failure(error) is None


def test_a_path_is_added_to_an_error_without_a_path(tmp_path: Path) -> None:
    for filename, path in ((None, tmp_path), ("/other", "/other")):
        with pytest.raises(OSError) as error, set_missing_filename(tmp_path):
            raise OSError(errno.EINVAL, "invalid", filename)
        assert str(as_failure(error.value)) == f"{path}: invalid"
