"""Confidence intervals of accuracies, over examples and over seeds."""

import math

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def t_interval(mean: float, std: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a mean accuracy over seeds.

    Args:
        mean: over the seeds, from 0 to 1.
        std: sample standard deviation over the seeds (`ddof=1`).
        count: number of seeds, at least 2.

    Returns:
        The ends, clipped to [0, 1].

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
    p, z2 = correct / examples, Z_95**2
    center = p + z2 / (2 * examples)
    half = Z_95 * math.sqrt(p * (1 - p) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)
