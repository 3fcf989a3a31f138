"""A thread beside the service: it works from start to stop, and its stop waits for what is under way."""

import threading
import time

from largebatch.service.queue.background import Background


def test_a_stop_waits_for_what_is_under_way() -> None:
    done: list[str] = []
    began = threading.Event()

    def look() -> None:
        began.set()
        time.sleep(0.05)
        done.append("its last round")

    background = Background("worker", look, every_s=60.0)
    background.start()
    assert began.wait(5)
    assert "worker" in {thread.name for thread in threading.enumerate()}
    background.stop()
    assert done == ["its last round"]
    background.stop()


def test_one_that_never_began_ends_at_once() -> None:
    Background("worker", lambda: None, every_s=60.0).stop()
