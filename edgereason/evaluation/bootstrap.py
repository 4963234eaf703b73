"""How sure a figure is: the bootstrap's interval (Efron, Annals of Statistics 7, 1979)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import numpy.typing as npt

_RESAMPLES = 10_000


class Bootstrapped(ABC):
    """A figure whose problems can be resampled, with replacement."""

    @abstractmethod
    def resampled(self, rng: np.random.Generator, times: int) -> npt.NDArray[np.float64]:
        """The figure of `times` sets of problems sampled from these, each set as large as this one: `[times]`."""

    @property
    def low(self) -> float:
        """Lower end of the figure's 95% bootstrap interval."""
        return self._interval[0]

    @property
    def high(self) -> float:
        """Upper end of the figure's 95% bootstrap interval."""
        return self._interval[1]

    @cached_property
    def _interval(self) -> tuple[float, float]:
        low, high = np.quantile(self.resampled(np.random.default_rng(0), _RESAMPLES), (0.025, 0.975))
        return float(low), float(high)
