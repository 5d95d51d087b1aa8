"""Chooses a run's configuration: the user specifies it, or a rule selects it.

`--config=files` and `rnnmnist.fit` apply the rule. It selects one of two shipped
configurations: `filters` below a number of training sequences, and otherwise `trained`.
This threshold is lower if all features are binary, as with one-hot encoding.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rnnmnist.config.files import RULE, find_config, load_config
from rnnmnist.config.schema import (
    CLOSED_FORM_CELL,
    GRADIENT,
    REPLACED_CONDITIONS,
    SETTINGS,
    Config,
    DataConfig,
    is_custom,
)

# If there are fewer training sequences, the rule selects `filters`. The second number
# applies to binary features. `docs/results_sequences.md` compares the configurations.
FEW_SEQUENCES = 2000
FEW_BINARY_SEQUENCES = 500


class Request(NamedTuple):
    """The configuration and settings that a user requests.

    Attributes:
        config: the configuration; None applies the rule.
        settings: values that override the configuration, by full setting name. A value
            of None selects the setting's default.
        has_callback: whether the user passes a callback, which requires gradient-based
            training.
    """

    config: Config | None
    settings: Mapping[str, object] = {}
    has_callback: bool = False

    @property
    def data(self) -> DataConfig:
        """The data settings, which do not depend on the rule's choice."""
        config = self.config or Config(data=DataConfig(name="files"))
        return config.replace(self.settings).data


def load_config_by_name(name: str | Path) -> Config | None:
    """Loads a configuration by name or path; returns None if the rule applies."""
    return None if str(name) == RULE else load_config(find_config(name))


def choose_config(
    request: Request,
    saved: Config | None = None,
    sequences: int = 0,
    has_binary_features: Callable[[], bool] = lambda: False,
) -> tuple[Config, str | None]:
    """Returns the configuration of a run, and the reason for the rule's choice.

    The reason is None if the user specifies the configuration or the cell, or resumes a
    run.

    Args:
        request: configuration and settings that the user requests.
        saved: configuration of the run in the workdir. A resumed run keeps its kind of
            network. None for a new run.
        sequences: number of training sequences, before any are held out for
            validation.
        has_binary_features: returns True if no feature has more than two values. It is
            called only if the rule depends on it.
    """
    config, reason = request.config, None
    if config is None:
        name, reason = _choose_recipe(request, saved, sequences, has_binary_features)
        config = load_config(find_config(name))
    # A custom function resets the settings that it replaces: a custom
    # optimizer, for example, resets the settings of AdamW. For random filters, nothing
    # is reset, because `resolve` rejects custom functions.
    defaults = {
        name: setting.default
        for function, condition in REPLACED_CONDITIONS.items()
        if is_custom(function, request.settings.get(function))
        for name, setting in SETTINGS.items()
        if condition in setting.applies_to and not config.model.is_closed_form
    }
    return config.replace(defaults | dict(request.settings)), reason


def _choose_recipe(
    request: Request,
    saved: Config | None,
    sequences: int,
    has_binary_features: Callable[[], bool],
) -> tuple[str, str | None]:
    cell = request.settings.get("model.cell")
    if cell is not None:
        return "filters" if cell == CLOSED_FORM_CELL else "trained", None
    for name, value in request.settings.items():
        if value is not None and GRADIENT in SETTINGS[name].applies_to:
            return "trained", f"because {name} is set"
    if request.has_callback:
        return "trained", "because callback is set"
    if saved is not None:
        name = "filters" if saved.model.is_closed_form else "trained"
        return name, None
    limit, kind = FEW_SEQUENCES, "training sequences"
    if sequences < limit and has_binary_features():
        limit = FEW_BINARY_SEQUENCES
        kind = "training sequences with binary features"
    if sequences < limit:
        return "filters", f"for fewer than {limit:,} {kind}"
    return "trained", f"for at least {limit:,} {kind}"
