"""Work done ahead in a thread, so that reading and decoding the next image overlap with detection in this one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE_S = 0.1  # how long a thread that is to stop may go on waiting


class Ahead(Generic[T]):
    """Iterate over `items`, produced in a thread of their own and kept in a bounded queue.

    Args:
        depth: items that may wait.
        newest: when the queue is full, drop the oldest item instead of waiting: a camera does not wait either.

    Attributes:
        dropped: items dropped so far.
    """

    def __init__(self, items: Iterable[T], depth: int = 4, newest: bool = False) -> None:
        if depth < 1:
            raise ValueError(f"depth {depth}")
        self.dropped = 0
        self._items, self._newest = items, newest
        self._queue: Queue[T] = Queue(depth)
        self._error: BaseException | None = None
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._produce, name="tinydet-ahead", daemon=True)

    def __iter__(self) -> Iterator[T]:
        self._thread.start()
        try:
            while True:
                try:
                    yield self._queue.get(timeout=_PATIENCE_S)
                except Empty:
                    if self._ended.is_set() and self._queue.empty():
                        break
            if self._error is not None:
                raise self._error
        finally:
            self._stopped.set()

    def _produce(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                self._put(item)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # raised again where the items are used
            self._error = error
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
            self._ended.set()

    def _put(self, item: T) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, block=not self._newest, timeout=_PATIENCE_S)
                return
            except Full:
                if self._newest:
                    self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            self._queue.get_nowait()
            self.dropped += 1
        except Empty:
            pass
