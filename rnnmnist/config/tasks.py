"""The task of a run: its data set and classes."""

import dataclasses

MIN_VALIDATION_EXAMPLES = 50  # with fewer, the last checkpoint is selected


@dataclasses.dataclass(frozen=True)
class Task:
    """Shapes, classes and statistics of a data set.

    Checkpoints and result files store the task, so that a model can be rebuilt from its
    checkpoint alone. The last four fields are None until the arrays are read. They stay
    None for images, which are not standardized, with one exception: `mnist5k` has a
    `sha256`, because this package draws its splits.

    Attributes:
        name: the name of the data set.
        time_steps: the length of the longest training or validation sequence. Test
            sequences can be longer.
        features: the number of features per time step.
        classes: class names, in the order of the labels.
        examples: the number of examples in each split, `train`, `validation`, `test`.
        image_shape: rows and columns; None for sequences.
        feature_names: empty if the features have no names.
        validation_groups: the groups held out for validation.
        sha256: the SHA-256 of all examples with their labels, lengths and splits.
        mean: the training mean of each feature, for standardization; None if the
            sequences are not standardized.
        std: the training standard deviation of each feature, likewise.
        delta_std: the standard deviation of each feature's deltas, in units of `std`.
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
        """The sizes of the splits as text, such as `4,000 / 500 / 500`."""
        return " / ".join(f"{count:,}" for count in self.examples.values())

    @property
    def evaluated_split(self) -> str:
        """The split of the final result: `test`, or `validation`, or `train`."""
        for split in ("test", "validation"):
            if self.examples[split]:
                return split
        return "train"

    @property
    def noun(self) -> str:
        """The word for examples in messages: `sequences` or `images`."""
        return "sequences" if self.image_shape is None else "images"
