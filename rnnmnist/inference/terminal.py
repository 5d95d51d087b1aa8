"""A prediction as text, with sparklines of the probabilities after each step."""

from rnnmnist.evaluation.accuracies import probability
from rnnmnist.inference.predictor import Prediction

BLOCKS = " ▁▂▃▄▅▆▇█"
MAX_DIGITS = 4
MAX_COLUMNS = 56  # of a sparkline


def format_prediction(name: str, prediction: Prediction) -> list[str]:
    """Returns the lines that describe the prediction for the file `name`."""
    if prediction.stages.blank:
        return [f"{name}: the image is blank; this does not look like a digit"]
    steps, width = len(prediction.probabilities), len(sparkline(prediction, 0))
    summary = (
        f"{name}: {prediction.digit}, {probability(prediction.probability)} "
        f"(then {prediction.runner_up}, "
        f"{probability(prediction.runner_up_probability)})"
    )
    if not prediction.looks_like_digit:
        summary += "; this does not look like a digit"
    return [
        summary,
        *(
            f"  {digit}  {sparkline(prediction, digit)}".rstrip()
            for digit in candidates(prediction)
        ),
        f"     1{steps:>{width - 1}}  steps read; decided after step "
        f"{prediction.decision_step}",
    ]


def candidates(prediction: Prediction) -> list[int]:
    """Returns the digit, the runner-up, and others that led after some step."""
    leaders = prediction.probabilities.argmax(-1)
    others = sorted(set(leaders.tolist()), key=lambda digit: -(leaders == digit).sum())
    ranked = dict.fromkeys([prediction.digit, prediction.runner_up, *others])
    return list(ranked)[:MAX_DIGITS]


def sparkline(prediction: Prediction, digit: int) -> str:
    """Returns the probability of a digit after evenly spaced steps, as blocks."""
    curve = prediction.probabilities[:, digit]
    every, top = -(-len(curve) // MAX_COLUMNS), len(BLOCKS) - 1
    shown = curve[::-1][::every][::-1]  # with the last step
    return "".join(BLOCKS[round(top * float(p))] for p in shown)
