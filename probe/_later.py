"""Work that a thread does in its order while the caller goes on, a little ahead of it at most."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

#: Pieces of work that may wait; each holds a layer's values.
AHEAD = 2


class Later:
    """Does what it is given, one after the other, in a thread; after a failure nothing more is done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="attention-probe")
        self._waiting: deque[Future[None]] = deque()
        self._stopped = False

    def do(self, work: Callable[[], None]) -> None:
        """Have `work` done; waits while too much is waiting, and raises what earlier work failed with."""
        while len(self._waiting) >= AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._one, work))

    def close(self, *, abandon: bool) -> None:
        """Wait until all is done, and raise what failed; or, to abandon, until what has begun is done."""
        try:
            while self._waiting and not abandon:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, work: Callable[[], None]) -> None:
        if self._stopped:
            return
        self._stopped = True
        work()
        self._stopped = False
