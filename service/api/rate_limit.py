"""Limits of each asker: to requests by a token bucket, and to event streams that are open."""

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

from largebatch.service.api.connections import most_connections
from largebatch.service.api.errors import TooManyRequestsError

MOST_ASKERS = 10_000
OTHERS = "others"
"""Whom those share a bucket under who come when so many are remembered."""
TIDIES_EVERY_S = 1.0
STREAMS_PART = 4
"""A fourth of the connections is what one owner's event streams may keep: they wait for nobody, so nothing else makes them go."""


class RateLimit:
    """So many requests a minute for each asker, in bursts of a tenth of that.

    Args: most_askers: that are remembered at a time. Those whose bucket is full again are forgotten, which changes nothing for them;
    nobody's bucket is given up for another's.
    """

    def __init__(self, per_minute: float, most_askers: int = MOST_ASKERS, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._per_s, self._burst, self._most_askers = per_minute / 60.0, max(per_minute / 10.0, 1.0), most_askers
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._tidied_at_s = 0.0

    def take(self, asker: str) -> None:
        """Count one request. Raises: TooManyRequestsError."""
        now = self._clock()
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


class StreamLimit:
    """So many event streams of each owner at a time; of the event loop alone."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def refuse_more(self, owner: str) -> None:
        """Raise TooManyRequestsError where an owner has as many as may be."""
        if self._open[owner] >= (most := most_connections() // STREAMS_PART):
            raise TooManyRequestsError("", f"{most} event streams of yours are open.", "Close one of them.")

    async def counted(self, owner: str, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The frames of one stream, which counts until they end."""
        self._open[owner] += 1
        try:
            async for frame in frames:
                yield frame
        finally:
            self._open[owner] -= 1
