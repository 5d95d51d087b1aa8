"""The division of sequences into splits. All values are zero."""

import numpy as np
import pytest

from rnnmnist.data.examples import SPLITS
from rnnmnist.data.sequences.checking import check_arrays
from rnnmnist.errors import UserError


@pytest.mark.parametrize(
    "split", ["", "train", "train test", "train validation test", "train validation"]
)
@pytest.mark.parametrize("num_groups", [0, 2, 5, 60])
def test_every_sequence_is_in_one_split_and_every_class_is_in_training(
    split: str, num_groups: int
) -> None:
    """In some cases, most groups have one class, as with one subject per class."""
    generator = np.random.default_rng(0)
    held_out = 0
    for _ in range(100):
        count = int(generator.integers(4, 1000))
        labels = generator.integers(generator.integers(2, 6), size=count)
        groups = None
        if num_groups:
            random = generator.integers(num_groups, size=count)
            is_random = generator.random(count) < generator.choice([0, 0.05, 1])
            groups = np.where(is_random, random, labels % num_groups)
        names = generator.choice(split.split(), count) if split else None
        sequences = check_arrays(
            np.zeros((count, 1)), labels, split=names, groups=groups
        )
        given = sequences.split_indices("train")
        classes = set(labels[given["train"]])
        try:
            found = sequences.training_splits(hold_out=True, seed=0)
        except UserError:  # one class, or no group can be held out
            continue
        together = np.concatenate([found[name] for name in SPLITS])
        np.testing.assert_array_equal(np.sort(together), np.arange(count))
        np.testing.assert_array_equal(found["test"], given["test"])
        assert set(labels[found["train"]]) == classes
        if "validation" in split:
            np.testing.assert_array_equal(found["validation"], given["validation"])
            continue
        held_out += len(found["validation"]) > 0
        if "test" in split:
            assert not 0 < len(found["validation"]) < 50
        if groups is not None:
            assert not {*groups[found["validation"]]} & {*groups[found["train"]]}
    assert held_out > 5 or "test" in split or "validation" in split


def test_a_tenth_of_each_class_is_drawn_for_validation() -> None:
    labels = np.repeat(np.arange(4), [100, 20, 5, 1])
    sequences = check_arrays(np.zeros((126, 1)), labels)
    draws = [
        sequences.training_splits(hold_out=True, seed=seed)["validation"].tolist()
        for seed in (0, 0, 1)
    ]
    for held_out in draws:
        assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 2, 1, 0]
    assert draws[0] == draws[1] != draws[2]


def test_with_a_test_split_fewer_than_fifty_sequences_stay_in_training() -> None:
    for count, expected in ((499, 0), (500, 50)):
        split = ["train"] * count + ["test"]
        labels = np.arange(count + 1) % 2
        sequences = check_arrays(np.zeros((count + 1, 1)), labels, split=split)
        found = sequences.training_splits(hold_out=True, seed=0)
        assert len(found["validation"]) == expected
        assert len(sequences.training_splits(hold_out=False, seed=0)["train"]) == count


def test_whole_groups_with_about_a_tenth_of_each_class_are_held_out() -> None:
    groups = np.random.default_rng(1).integers(50, size=2000)
    labels = np.arange(2000) % 4
    sequences = check_arrays(np.zeros((2000, 1)), labels, groups=groups)
    for seed in range(3):
        held_out = sequences.training_splits(hold_out=True, seed=seed)["validation"]
        fractions = np.bincount(labels[held_out], minlength=4) / 500
        assert fractions.min() > 0.05
        assert fractions.max() < 0.2


@pytest.mark.parametrize(
    ("labels", "groups"),
    [(np.arange(4), None), (np.repeat([0, 1, 2], 20), np.repeat([0, 1, 2], 20))],
)
def test_nothing_can_be_held_out_with_one_sequence_or_group_per_class(
    labels: np.ndarray, groups: np.ndarray | None
) -> None:
    sequences = check_arrays(np.zeros((len(labels), 1)), labels, groups=groups)
    with pytest.raises(UserError, match=r"^split: none of the"):
        sequences.training_splits(hold_out=True, seed=0)
    splits = sequences.training_splits(hold_out=False, seed=0)
    assert len(splits["train"]) == len(labels)
