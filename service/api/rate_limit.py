"""A limit to the requests of each asker: a token bucket."""

import threading
import time

from largebatch.service.api.errors import TooManyRequestsError

MOST_ASKERS = 10_000


class RateLimit:
    """So many requests a minute for each asker, in bursts of a tenth of that."""

    def __init__(self, per_minute: int) -> None:
        self._per_s, self._burst = per_minute / 60.0, max(per_minute / 10.0, 1.0)
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, asker: str) -> None:
        """Count one request. Raises: TooManyRequestsError."""
        now = time.monotonic()
        with self._lock:
            if len(self._left) > MOST_ASKERS:
                self._left.clear()
            left, at_s = self._left.get(asker, (self._burst, now))
            left = min(self._burst, left + (now - at_s) * self._per_s)
            self._left[asker] = (max(left - 1.0, 0.0), now)
        if left < 1.0:
            raise TooManyRequestsError("", "too many requests.", "Wait a little.")
