"""Student's t distribution with any number of degrees of freedom, whole or not, from 1 on."""

import math
from functools import lru_cache
from statistics import NormalDist

MANY = 1e7  # degrees of freedom, from which on t is normal to a double's precision in what is asked here


def two_sided(t: float, freedom: float) -> float:
    """The chance that |T| exceeds |t|, of T with `freedom` degrees of freedom, which may be inf.

    An incomplete beta ratio: NIST Digital Library of Mathematical Functions, 8.17.22 and 8.17.4.
    """
    if freedom > MANY or math.isinf(t):
        return math.erfc(abs(t) / math.sqrt(2))
    half, square = freedom / 2, t * t
    inside = freedom / (freedom + square)
    if inside < (half + 1) / (half + 2.5):
        return _beta_ratio(inside, half, 0.5)
    return 1 - _beta_ratio(square / (freedom + square), 0.5, half)


@lru_cache(maxsize=1024)
def quantile(level: float, freedom: float) -> float:
    """t >= 0 that |T| exceeds with the chance `level`, in (0, 1). Raises ValueError on values out of range.

    By Newton's method from the normal quantile, which lies below: the chance is convex there, so no step goes too far.
    """
    if not (0 < level < 1 and freedom >= 1):
        raise ValueError(f"level must lie in (0, 1) and freedom be at least 1, found {level} and {freedom}")
    t = -NormalDist().inv_cdf(level / 2)
    if freedom > MANY:
        return t
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    for _ in range(200):
        density = scale * math.exp(-(freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (two_sided(t, freedom) - level) / (2 * density)
        t += step
        if step < 1e-13 * t:
            break
    return t


def _beta_ratio(x: float, a: float, b: float) -> float:
    """I_x(a, b) for x < (a + 1) / (a + b + 2), by its continued fraction, from the front (Lentz's method)."""
    if x == 0:
        return 0.0
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    above, below, found = 1.0, 0.0, 1.0
    for step in range(100_000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        below = 1 / (1 + term * below)
        above = 1 + term / above
        found *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return math.exp(front) / a * (found - 1)
