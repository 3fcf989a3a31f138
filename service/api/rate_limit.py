"""A limit to the requests of each asker: a token bucket."""

import threading
import time

from largebatch.service.api.errors import TooManyRequestsError

MOST_ASKERS = 10_000
OTHERS = "others"
"""Whom those share a bucket under who come when so many are remembered."""
TIDIES_EVERY_S = 1.0


class RateLimit:
    """So many requests a minute for each asker, in bursts of a tenth of that.

    Args: most_askers: that are remembered at a time. Those whose bucket is full again are forgotten, which changes nothing for them;
    nobody's bucket is given up for another's.
    """

    def __init__(self, per_minute: float, most_askers: int = MOST_ASKERS) -> None:
        self._per_s, self._burst, self._most_askers = per_minute / 60.0, max(per_minute / 10.0, 1.0), most_askers
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._tidied_at_s = 0.0

    def take(self, asker: str) -> None:
        """Count one request. Raises: TooManyRequestsError."""
        now = time.monotonic()
        with self._lock:
            if asker not in self._left and len(self._left) >= self._most_askers:
                self._tidy(now)
                if len(self._left) >= self._most_askers:
                    asker = OTHERS
            left = self._filled(asker, now)
            self._left[asker] = (max(left - 1.0, 0.0), now)
        if left < 1.0:
            raise TooManyRequestsError("", "too many requests.", "Wait a little.")

    def _filled(self, asker: str, now: float) -> float:
        left, at_s = self._left.get(asker, (self._burst, now))
        return min(self._burst, left + (now - at_s) * self._per_s)

    def _tidy(self, now: float) -> None:
        """Forget whose bucket is full again; seldom, for it goes through all."""
        if now >= self._tidied_at_s + TIDIES_EVERY_S:
            self._tidied_at_s = now
            self._left = {asker: bucket for asker, bucket in self._left.items() if self._filled(asker, now) < self._burst}
