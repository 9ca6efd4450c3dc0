"""Intervals of means over independent repetitions, on the scale of their metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special  # scipy.stats takes over a second to import

from common.statistics.bootstrap import LEVEL

#: The least and the greatest possible value; None as the greatest for no end, () for no ends.
Scale = Sequence[float | None]


def t_interval(mean: float, std: float, n: int, scale: Scale = ()) -> tuple[float, float]:
    """95% t interval of the mean of ``n`` values (2 or more) with standard deviation ``std`` (n - 1 in the denominator).

    On a bounded ``scale``, such as (0, 100), the interval is that of the mean's logit, transformed back: with the logit's standard
    error by the delta method, it lies inside the scale, holds the mean, and is the plain one where that is narrow. Cutting the
    plain one off would claim that the mean may be exactly 100. With one end, the logarithm takes the logit's place. Source: logit
    intervals of proportions (Brown, Cai & DasGupta, Interval Estimation for a Binomial Proportion, Statistical Science 16, 2001,
    section 4.1; Newcombe, Logit confidence intervals and the inverse sinh transformation, The American Statistician 55, 2001).

    >>> [round(end, 1) for end in t_interval(65, 4.72, 2)], [round(end, 1) for end in t_interval(65, 4.72, 2, (0, 100))]
    ([22.6, 107.4], [22.4, 92.3])
    """
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * std / math.sqrt(n)
    low, high = scale or (-math.inf, None)
    high = math.inf if high is None else high
    if not low < mean < high or low == -math.inf:
        return mean - half, mean + half
    if high == math.inf:
        return tuple(low + (mean - low) * math.exp(sign * half / (mean - low)) for sign in (-1, 1))
    share = (mean - low) / (high - low)
    centre, reach = special.logit(share), half / ((high - low) * share * (1 - share))
    return tuple(float(low + (high - low) * special.expit(centre + sign * reach)) for sign in (-1, 1))
