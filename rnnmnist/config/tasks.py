"""The task of a run: shapes, classes and statistics of its data set."""

import dataclasses

# If there are fewer validation examples, the last checkpoint is selected.
MIN_VALIDATION_EXAMPLES = 50


@dataclasses.dataclass(frozen=True)
class Task:
    """Shapes, classes and statistics of a data set.

    Checkpoints and result files store the task, so a model can be rebuilt from its
    checkpoint alone. The last four fields are None until the arrays are read. For
    images, which are not standardized, they remain None, except for the `sha256` of
    `mnist5k`, whose splits are drawn by this package.

    Attributes:
        name: name of the data set.
        time_steps: length of the longest training or validation sequence. Test
            sequences may be longer.
        features: number of features per time step.
        classes: class names, in label order.
        examples: number of examples in each split: `train`, `validation` and `test`.
        image_shape: rows and columns; None for sequences.
        feature_names: names of the features; empty if they have no names.
        sha256: SHA-256 of all examples with their labels, lengths and splits.
        mean: training mean of each feature; None if sequences are not standardized.
        std: training standard deviation of each feature; None if sequences are not
            standardized.
        delta_std: training standard deviation of each delta feature, in units of `std`.
    """

    name: str
    time_steps: int
    features: int
    classes: tuple[str, ...]
    examples: dict[str, int] = dataclasses.field(hash=False)
    image_shape: tuple[int, int] | None = None
    feature_names: tuple[str, ...] = ()
    sha256: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    delta_std: tuple[float, ...] | None = None

    @property
    def sizes(self) -> str:
        """The sizes of the splits, formatted as `4,000 / 500 / 500`."""
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
        """The noun for examples in messages: `sequences` or `images`."""
        return "sequences" if self.image_shape is None else "images"
