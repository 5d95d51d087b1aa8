"""What was believed after each row, as bars in a terminal."""

from rnnmnist.evaluation.formatting import probability
from rnnmnist.inference.predictor import Prediction

HEIGHTS = " ▁▂▃▄▅▆▇█"
MOST = 4  # digits that are shown


def lines(name: str, reading: Prediction) -> list[str]:
    """A reading in a few lines: the answer, and a bar a row for what was believed.

    Args:
        name: of the file.
        reading: of it.
    """
    if reading.stages.blank:
        return [f"{name}: no ink is on it; this does not look like a digit"]
    runner_up = reading.probabilities[-1][reading.runner_up]
    answer = (
        f"{name}: {reading.digit}, {probability(reading.probability)} "
        f"(then {reading.runner_up}, {probability(float(runner_up))})"
    )
    if not reading.looks_like_digit:
        answer += "; this does not look like a digit"
    return [
        answer,
        *(
            f"  {digit}  {bar(reading, digit)}".rstrip()
            for digit in candidates(reading)
        ),
        f"     1{28:>27}  rows read; decided after row {reading.decision_row}",
    ]


def candidates(reading: Prediction) -> list[int]:
    """The answer, the runner-up, and who else was ahead after some row."""
    ahead = reading.probabilities.argmax(-1)
    others = sorted(set(ahead.tolist()), key=lambda digit: -(ahead == digit).sum())
    return list(dict.fromkeys([reading.digit, reading.runner_up, *others]))[:MOST]


def bar(reading: Prediction, digit: int) -> str:
    """A digit's probability after each row, a letter a row."""
    steps = len(HEIGHTS) - 1
    return "".join(
        HEIGHTS[round(steps * float(p))] for p in reading.probabilities[:, digit]
    )
