"""Which configuration a run has, and why: the one that a user names, or a rule.

With the name `files`, and in `rnnmnist.fit`, the number of training sequences chooses
between two shipped configurations: `filters` for few, and `trained` for more. If the
features have two values only, as one-hot codes have, fewer sequences are enough for
`trained`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rnnmnist.config.files import RULE, find_config, load_config
from rnnmnist.config.schema import (
    CLOSED_FORM_CELL,
    KINDS_OF_TRAINING,
    REPLACED,
    SETTINGS,
    Config,
    DataConfig,
    is_own,
)

# Filters are fitted to fewer training sequences. `docs/results_sequences.md` compares.
FEW_SEQUENCES = 2000
FEW_TWO_VALUED_SEQUENCES = 500


class Request(NamedTuple):
    """What a user has asked for.

    Attributes:
        config: the configuration that is named; None is the rule.
        settings: the values of settings that replace those of the configuration, by
            their full names. A value of None stands for the default.
        has_callback: whether there is a callback, which needs a network that is trained
            by gradients, as a setting of training does.
    """

    config: Config | None
    settings: Mapping[str, object] = {}
    has_callback: bool = False

    @property
    def data(self) -> DataConfig:
        """The settings of the data, which all recipes share."""
        config = self.config or Config(data=DataConfig(name="files"))
        return config.replace(self.settings).data


def load_named(name: str | Path) -> Config | None:
    """Loads a configuration by its path or its name; for the rule, returns None."""
    return None if str(name) == RULE else load_config(find_config(name))


def choose_config(
    request: Request,
    saved: Config | None = None,
    sequences: int = 0,
    are_two_valued: Callable[[], bool] = lambda: False,
) -> tuple[Config, str | None]:
    """Returns the configuration of a run, and why the rule has chosen it.

    The reason is None if the user has named the configuration or the cell, or if a run
    goes on.

    Args:
        request: what the user has asked for.
        saved: the configuration of the run that is in the workdir, if there is one. A
            run keeps its kind of network.
        sequences: the number of training sequences, before some are held out.
        are_two_valued: tells whether no feature of them has more than two values. It is
            called if the rule needs it.
    """
    config, reason = request.config, None
    if config is None:
        name, reason = _choose_recipe(request, saved, sequences, are_two_valued)
        config = load_config(find_config(name))
    # A recipe's values for AdamW, for example, do not apply to an own optimizer. Random
    # filters stay, and are refused beside a network.
    dropped = {
        name: declared.default
        for function, kinds in REPLACED.items()
        if is_own(function, request.settings.get(function))
        for name, declared in SETTINGS.items()
        if declared.applies_to in kinds and not config.model.is_closed_form
    }
    return config.replace(dropped | dict(request.settings)), reason


# Returns the name of a shipped configuration, and the reason for the choice.
def _choose_recipe(
    request: Request,
    saved: Config | None,
    sequences: int,
    are_two_valued: Callable[[], bool],
) -> tuple[str, str | None]:
    cell = request.settings.get("model.cell")
    if cell is not None:
        return "filters" if cell == CLOSED_FORM_CELL else "trained", None
    for name, value in request.settings.items():
        if value is not None and SETTINGS[name].applies_to in KINDS_OF_TRAINING:
            return "trained", f"since {name} is given"
    if request.has_callback:
        return "trained", "since callback is given"
    if saved is not None:
        name = "filters" if saved.model.is_closed_form else "trained"
        return name, None
    limit, kind = FEW_SEQUENCES, "training sequences"
    if sequences < limit and are_two_valued():
        limit = FEW_TWO_VALUED_SEQUENCES
        kind = "training sequences with two-valued features"
    if sequences < limit:
        return "filters", f"for fewer than {limit:,} {kind}"
    return "trained", f"for at least {limit:,} {kind}"
