"""How far an accuracy can be from the truth: intervals over images and over seeds."""

import math

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def t_interval(mean: float, std: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a mean accuracy over seeds, from their own spread.

    Args:
        mean: over the seeds, from 0 to 1.
        std: over them, with `count - 1` in its denominator.
        count: of seeds, at least 2.

    Returns:
        Its ends, cut off at 0 and 1.

    References:
        Student, "The probable error of a mean", Biometrika 6, 1908.
    """
    from scipy.special import stdtrit  # half a second, for stacks alone

    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_interval(correct: float, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Returns:
        Its ends, from 0 to 1.

    References:
        Wilson, "Probable inference, the law of succession, and statistical
        inference", JASA 22, 1927.
    """
    share, z2 = correct / examples, Z_95**2
    middle = share + z2 / (2 * examples)
    half = Z_95 * math.sqrt(share * (1 - share) / examples + z2 / (4 * examples**2))
    scale = 1 + z2 / examples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
