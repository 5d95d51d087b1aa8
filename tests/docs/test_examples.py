"""The example program, which uses only the package's data, learns."""

import re

import jax
import plain_loop
import pytest


@pytest.mark.slow
@pytest.mark.usefixtures("fast_programs")
def test_the_plain_loop_learns_and_evaluates_the_test_split_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain_loop, "EPOCHS", 1)
    with jax.numpy_dtype_promotion("standard"):  # optax divides steps by floats
        plain_loop.main()
    found = re.fullmatch(
        r"epoch  1  validation accuracy \d+\.\d% \((\d+) of 500\)\n"
        r"test accuracy \d+\.\d% \((\d+) of 500\)\n",
        capsys.readouterr().out,
    )
    assert found
    assert min(map(int, found.groups())) > 200, "chance is 50"
