"""Tasks: what is classified."""

import dataclasses

MIN_VALIDATION_EXAMPLES = 50  # with fewer, validation does not select a checkpoint


@dataclasses.dataclass(frozen=True)
class Task:
    """The sequences of a data set and their classes.

    Every checkpoint and result file holds the task, so that a model can be rebuilt from
    its checkpoint alone. The last four fields are None until the arrays are read. Of
    images, the last three stay None, since these are not standardized, and `sha256`
    does, too, except for `mnist5k`, whose splits this package draws.

    Attributes:
        name: the name of the data set.
        time_steps: the length of the longest sequence in training and validation. Test
            sequences can be longer.
        features: the number of features.
        classes: the names of the classes, in the order of the labels.
        examples: the number of examples in each of train, validation and test.
        image_shape: rows and columns; None for sequences.
        feature_names: empty if the data do not name them.
        validation_groups: the groups that are held out for validation.
        sha256: the SHA-256 of all examples with their labels, lengths and splits.
        mean: the mean of each feature in training, by which sequences are
            standardized; None if they are not.
        std: the standard deviation, likewise.
        delta_std: the standard deviation of differences, in units of `std`.
    """

    name: str
    time_steps: int
    features: int
    classes: tuple[str, ...]
    examples: dict[str, int] = dataclasses.field(hash=False)
    image_shape: tuple[int, int] | None = None
    feature_names: tuple[str, ...] = ()
    validation_groups: tuple[str, ...] = ()
    sha256: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    delta_std: tuple[float, ...] | None = None

    @property
    def sizes(self) -> str:
        """The sizes of the splits, as text."""
        return " / ".join(f"{count:,}" for count in self.examples.values())

    @property
    def evaluated_split(self) -> str:
        """The split of the final result: `test`, else `validation`, else `train`."""
        for split in ("test", "validation"):
            if self.examples[split]:
                return split
        return "train"

    @property
    def noun(self) -> str:
        """The word for several examples."""
        return "sequences" if self.image_shape is None else "images"
