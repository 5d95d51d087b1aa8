"""Text for accuracies, probabilities and intervals."""

from collections.abc import Sequence


def percent(fraction: float) -> str:
    """Formats a fraction in percent: `99.02 %`."""
    return f"{100 * fraction:.2f} %"


def probability(fraction: float) -> str:
    """Formats a probability in percent; only 1 is `100.00 %`, only 0 is `0.00 %`."""
    if 0.9999 < fraction < 1:
        return "> 99.99 %"
    return "< 0.01 %" if 0 < fraction < 0.0001 else percent(fraction)


def interval(ends: Sequence[float]) -> str:
    """Formats an interval of fractions in percent: `98.81 to 99.19 %`."""
    low, high = ends
    return f"{100 * low:.2f} to {percent(high)}"
