"""The types that a program sees which calls the package.

mypy is strict about comments that it does not need: a line with `type: ignore` is one
that it refuses.
"""

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from support import code_blocks, run_python

import rnnmnist
from rnnmnist.config import schema
from rnnmnist.config.settings import settings_of
from rnnmnist.fitting import FIT_SETTINGS

SECTIONS = (
    schema.Config,
    schema.DataConfig,
    schema.ModelConfig,
    schema.TrainConfig,
    schema.ExecutionConfig,
)


def test_the_settings_of_fit_have_the_types_of_the_schema() -> None:
    expected: dict[str, Any] = {}
    for section in SECTIONS:
        hints = typing.get_type_hints(section)
        for key, setting in settings_of(section).items():
            if setting in FIT_SETTINGS.values():
                expected[key] = hints[key]
    expected["columns"] = str | Mapping[str, str] | None
    expected["features"] = str | Sequence[str] | None
    expected["class_weight"] = Literal["none", "balanced"] | Mapping[Any, float]
    assert typing.get_type_hints(rnnmnist.FitSettings) == expected


def test_a_misspelt_name_is_refused(tmp_path: Path) -> None:
    inputs, labels = np.zeros((4, 3)), [0, 1, 0, 1]
    with pytest.raises(rnnmnist.UserError, match="did you mean 'num_steps'"):
        rnnmnist.fit(inputs, labels, workdir=tmp_path, num_stepz=1)  # type: ignore[call-arg]
    with pytest.raises(rnnmnist.UserError, match="an integer"):
        rnnmnist.fit(inputs, labels, workdir=tmp_path, num_steps="x")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="fti"):
        rnnmnist.fti  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(rnnmnist.UserError, match="validation"):
        rnnmnist.load().evaluate("valid")  # type: ignore[arg-type]
    with pytest.raises(rnnmnist.UserError, match="stablehlo"):
        rnnmnist.load().export("onxx", "x")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_program_on_the_page_is_typed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Outside of the package, as its users are."""
    pytest.importorskip("mypy")
    blocks = code_blocks("docs/reference.md", "python")
    (program,) = (block for block in blocks if "def answer(" in block)
    (tmp_path / "service.py").write_text(program)
    finished = run_python(
        "-m", "mypy", "--strict", "service.py", environment=environment, cwd=tmp_path
    )
    assert finished.returncode == 0, finished.stdout
