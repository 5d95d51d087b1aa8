"""The division of sequences into splits, on random sequences without values."""

import numpy as np
import pytest

from rnnmnist.data.examples import SPLITS
from rnnmnist.data.sequences.validation import Sequences, validate
from rnnmnist.errors import UserError


def sequences_of(
    generator: np.random.Generator, count: int, split: str = "", groups: int = 0
) -> Sequences:
    """Sequences of two to five classes, divided by the names in `split`, separated."""
    names = split.split()
    return validate(
        np.zeros((count, 1, 1)),
        generator.permutation(np.arange(count) % generator.integers(2, 6)),
        split=generator.choice(names, count) if names else None,
        groups=generator.integers(groups, size=count) if groups else None,
    )


@pytest.mark.parametrize(
    "split", ["", "train", "train test", "train validation test", "train validation"]
)
@pytest.mark.parametrize("groups", [0, 60])
def test_every_sequence_is_in_one_split(split: str, groups: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        count = int(generator.integers(20, 1000))
        sequences = sequences_of(generator, count, split, groups)
        given = sequences.split_as_given("train")
        assert sequences.training_splits(hold_out=False).keys() == set(SPLITS)
        found = sequences.training_splits(hold_out=True)
        together = np.concatenate([found[name] for name in SPLITS])
        np.testing.assert_array_equal(np.sort(together), np.arange(count))
        np.testing.assert_array_equal(found["test"], given["test"])
        if "validation" in split:
            np.testing.assert_array_equal(found["validation"], given["validation"])
        elif "test" in split:
            assert not 0 < len(found["validation"]) < 50
        if groups:
            assert sequences.groups is not None
            own = set(sequences.groups[found["validation"]])
            assert "validation" in split or own.isdisjoint(
                sequences.groups[found["train"]]
            )


def test_a_tenth_of_each_class_validates() -> None:
    labels = np.repeat(np.arange(4), [100, 20, 5, 1])
    sequences = validate(np.zeros((126, 1)), labels)
    held_out = sequences.training_splits(hold_out=True)["validation"]
    assert held_out.tolist() == [*range(9, 100, 10), 109, 119, 124]


def test_fewer_than_fifty_sequences_stay_in_training_beside_a_test_split() -> None:
    for count, expected in ((499, 0), (500, 50)):
        split = ["train"] * count + ["test"]
        labels = np.arange(count + 1) % 2
        sequences = validate(np.zeros((count + 1, 1)), labels, split=split)
        found = sequences.training_splits(hold_out=True)
        assert len(found["validation"]) == expected
        assert len(sequences.training_splits(hold_out=False)["train"]) == count


def test_whole_groups_validate_with_a_tenth_of_each_class() -> None:
    generator = np.random.default_rng(1)
    for groups in (20, 50, 200):
        sequences = sequences_of(generator, 2000, groups=groups)
        assert sequences.labels is not None
        held_out = sequences.training_splits(hold_out=True)["validation"]
        sizes = np.bincount(sequences.labels)
        shares = np.bincount(sequences.labels[held_out], minlength=len(sizes)) / sizes
        assert shares.min() > 0.05
        assert shares.max() < 0.15


@pytest.mark.parametrize("groups", [2, 5, 30])
@pytest.mark.parametrize("split", ["", "train test"])
def test_no_class_of_the_training_split_is_held_out_whole(
    groups: int, split: str
) -> None:
    """Also if most groups have one class, as with a subject for each class."""
    generator = np.random.default_rng(0)
    held_out = 0
    for _ in range(100):
        count = int(generator.integers(4, 300))
        labels = generator.integers(generator.integers(2, 6), size=count)
        random = generator.integers(groups, size=count)
        is_mixed = generator.random(count) < generator.choice([0, 0.05, 1])
        sequences = validate(
            np.zeros((count, 1)),
            labels,
            split=generator.choice(split.split(), count) if split else None,
            groups=np.where(is_mixed, random, labels % groups),
        )
        given = sequences.split_as_given("train")["train"]
        if len(np.unique(labels[given])) < 2:
            continue
        try:
            found = sequences.training_splits(hold_out=True)
        except UserError:  # each group has the only sequences of a class
            continue
        assert set(labels[found["train"]]) == set(labels[given])
        held_out += len(found["validation"]) > 0
    assert held_out >= (0 if split else 20)


def test_one_sequence_or_group_for_each_class_cannot_validate() -> None:
    sequences = validate(np.zeros((4, 1)), [0, 1, 2, 3])
    with pytest.raises(UserError, match=r"^split: none of the 4 training sequences"):
        sequences.training_splits(hold_out=True)
    groups = np.repeat([0, 1, 2], 20)
    sequences = validate(np.zeros((60, 1)), groups, groups=groups)
    with pytest.raises(UserError, match=r"^split: none of the 60 training"):
        sequences.training_splits(hold_out=True)
    assert len(sequences.training_splits(hold_out=False)["train"]) == 60
