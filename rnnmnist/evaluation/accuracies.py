"""Accuracies and probabilities as text, and the confidence intervals of accuracies."""

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def t_interval(mean: float, std: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a mean accuracy over at least two seeds.

    The standard deviation is that of a sample (`ddof=1`).

    References:
        Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # takes 0.5 s; needed for ensembles only

    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_interval(correct: float, examples: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22, 1927.
    """
    p = correct / examples
    z2 = Z_95**2
    centre = p + z2 / (2 * examples)
    half = Z_95 * math.sqrt(p * (1 - p) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


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
