"""Failures are printed as one line, and internal errors with a traceback."""

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
def test_a_failure_has_one_line(
    error: Exception, kind: type[Failure], message: str
) -> None:
    found = as_failure(error)
    assert type(found) is kind
    assert str(found) == message


def test_every_error_of_the_package_can_be_pickled() -> None:
    """A `ProcessPoolExecutor` pickles errors. The copies have equal fields."""
    for module in pkgutil.walk_packages(rnnmnist.__path__, "rnnmnist."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = {Exception}
    while found := {each for kind in kinds for each in kind.__subclasses__()} - kinds:
        kinds |= found
    own = {kind for kind in kinds if kind.__module__.startswith("rnnmnist.")}
    assert {UserError, RunError, StoppedError, rnnmnist.DataWarning} <= own
    for kind in own:
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
    for given, named in ((None, tmp_path), ("/other", "/other")):
        with pytest.raises(OSError) as error, set_missing_filename(tmp_path):
            raise OSError(errno.EINVAL, "invalid", given)
        assert str(as_failure(error.value)) == f"{named}: invalid"
