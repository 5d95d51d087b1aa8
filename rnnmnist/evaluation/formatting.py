"""Text for accuracies, probabilities and intervals."""

from collections.abc import Sequence


def percent(fraction: float) -> str:
    """Formats a fraction in percent: `99.02 %`."""
    return f"{100 * fraction:.2f} %"


def mean_and_std(mean: float, std: float) -> str:
    """Formats a mean fraction and its standard deviation: `99.19 ± 0.04 %`."""
    return f"{100 * mean:.2f} ± {percent(std)}"


def percentage_points(fraction: float) -> str:
    """Formats a difference of fractions: `0.31 points`."""
    return f"{100 * fraction:.2f} points"


def probability(fraction: float) -> str:
    """Formats a probability in percent; only 1 is `100.00 %`, only 0 is `0.00 %`."""
    if 0.9999 < fraction < 1:
        return "> 99.99 %"
    return "< 0.01 %" if 0 < fraction < 0.0001 else percent(fraction)


def interval(ends: Sequence[float]) -> str:
    """Formats an interval of fractions in percent: `98.81 to 99.19 %`."""
    low, high = ends
    return f"{100 * low:.2f} to {percent(high)}"
