"""Chooses the configuration of a run: the user names it, or a rule selects it.

The rule applies to the name `files` and to `rnnmnist.fit`. It selects the shipped
configuration `filters` for few training sequences, and `trained` for more. With
binary features, such as one-hot codes, fewer sequences are enough for `trained`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rnnmnist.config.files import RULE, find_config, load_config
from rnnmnist.config.schema import (
    CLOSED_FORM_CELL,
    REPLACED_KINDS,
    SETTINGS,
    TRAINING_KINDS,
    Config,
    DataConfig,
    is_user_defined,
)

# Below these numbers of training sequences, the rule selects `filters`.
# `docs/results_sequences.md` compares both configurations.
FEW_SEQUENCES = 2000
FEW_BINARY_SEQUENCES = 500


class Request(NamedTuple):
    """The configuration that a user requests, with changes.

    Attributes:
        config: the named configuration; None applies the rule.
        settings: changed values by full setting name. None selects the default.
        has_callback: whether the user passes a callback, which requires training by
            gradients.
    """

    config: Config | None
    settings: Mapping[str, object] = {}
    has_callback: bool = False

    @property
    def data(self) -> DataConfig:
        """The data settings, which are the same for both choices of the rule."""
        config = self.config or Config(data=DataConfig(name="files"))
        return config.replace(self.settings).data


def load_config_by_name(name: str | Path) -> Config | None:
    """Loads a configuration by path or name; returns None for the rule."""
    return None if str(name) == RULE else load_config(find_config(name))


def choose_config(
    request: Request,
    saved: Config | None = None,
    sequences: int = 0,
    are_binary: Callable[[], bool] = lambda: False,
) -> tuple[Config, str | None]:
    """Returns the configuration of a run, and the reason for the rule's choice.

    The reason is None if the user has named the configuration or the cell, or if a run
    is resumed.

    Args:
        request: the configuration and settings that the user requests.
        saved: the configuration of the run in the workdir, whose kind of network is
            kept; None for a new run.
        sequences: the number of training sequences, including validation sequences
            that are held out later.
        are_binary: returns True if no feature has more than two values; only called
            if the rule needs it.
    """
    config, reason = request.config, None
    if config is None:
        name, reason = _choose_recipe(request, saved, sequences, are_binary)
        config = load_config(find_config(name))
    # A user-defined function replaces settings of the recipe: a user-defined optimizer,
    # for example, drops the settings of AdamW. Random filters keep their settings, and
    # `resolve` refuses the function.
    dropped = {
        name: declared.default
        for function, kinds in REPLACED_KINDS.items()
        if is_user_defined(function, request.settings.get(function))
        for name, declared in SETTINGS.items()
        if declared.applies_to in kinds and not config.model.is_closed_form
    }
    return config.replace(dropped | dict(request.settings)), reason


def _choose_recipe(
    request: Request,
    saved: Config | None,
    sequences: int,
    are_binary: Callable[[], bool],
) -> tuple[str, str | None]:
    cell = request.settings.get("model.cell")
    if cell is not None:
        return "filters" if cell == CLOSED_FORM_CELL else "trained", None
    for name, value in request.settings.items():
        if value is not None and SETTINGS[name].applies_to in TRAINING_KINDS:
            return "trained", f"since {name} is given"
    if request.has_callback:
        return "trained", "since callback is given"
    if saved is not None:
        name = "filters" if saved.model.is_closed_form else "trained"
        return name, None
    limit, kind = FEW_SEQUENCES, "training sequences"
    if sequences < limit and are_binary():
        limit = FEW_BINARY_SEQUENCES
        kind = "training sequences with binary features"
    if sequences < limit:
        return "filters", f"for fewer than {limit:,} {kind}"
    return "trained", f"for at least {limit:,} {kind}"
