"""Tasks of the built-in data sets. Importing this module does not import TFDS."""

from rnnmnist.config.schema import Config
from rnnmnist.config.tasks import Task

_DIGITS = tuple("0123456789")
_GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_SYLLABLES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

TASKS = {
    task.name: task
    for task in (
        Task("mnist", _DIGITS, 55_000),
        Task("fashion_mnist", _GARMENTS, 55_000),
        Task("kmnist", _SYLLABLES, 55_000),
        Task("mnist5k", _DIGITS, 4_000),
    )
}


def task_of(config: Config) -> Task:
    """Returns the task of a run."""
    return TASKS[config.data.name]
