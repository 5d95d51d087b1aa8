"""The settings with which a run can resume."""

import pytest
from support import TASK, run_config

from rnnmnist.errors import UserError
from rnnmnist.runs.checkpoint_files import Header
from rnnmnist.runs.records import Record
from rnnmnist.training.resume import changed_settings, check_resume

CONFIG = run_config({"train.num_steps": 30})
HALF = Header(step=15, config=CONFIG, task=TASK, metrics=None)
COMPLETE = Header(step=30, config=CONFIG, task=TASK, metrics=None)


def test_a_changed_setting_is_a_warning_if_the_result_differs() -> None:
    changes = {"data.data_dir": "/somewhere", "train.num_steps": 1000}
    changes |= {"train.log_every_steps": 3, "train.patience": 5}
    changed = CONFIG.replace(changes)
    assert check_resume(changed, HALF, Record()) is None
    warned = changed_settings(CONFIG, changed, "warn")
    assert warned == [("train.num_steps", "30", "1000")]


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [
        (HALF, "model.hidden_size", 49),
        (HALF, "seed", 1),
        (HALF, "train.batch_size", 49),
        (HALF, "data.max_shift", 3),
        (COMPLETE, "train.learning_rate", 0.5),
        (COMPLETE, "execution.num_devices", 3),
    ],
)
def test_a_setting_of_another_run_is_refused_with_both_values(
    header: Header, name: str, value: object
) -> None:
    changed = CONFIG.replace({name: value})
    with pytest.raises(UserError) as error:
        check_resume(changed, header, Record())
    shown = f"{name}={value} (checkpoint: {CONFIG.flat()[name]})"
    assert shown in str(error.value)


def test_a_complete_run_can_be_continued_with_other_settings() -> None:
    changes = {"train.learning_rate": 0.5, "train.num_steps": 1000}
    assert check_resume(CONFIG, COMPLETE, Record()) is not None
    assert check_resume(CONFIG.replace(changes), COMPLETE, Record()) is None
