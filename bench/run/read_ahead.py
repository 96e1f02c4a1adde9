"""Images of the next task are read, decoded and resized while the present one is computed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from bench.errors import UnreadableImage
from bench.run.plan import Plan, Task
from bench.types import Batch

JOIN_SECONDS = 2.0
"""How long the end of a run waits for the image that is being read; a file system that hangs is not
waited for.
"""

Key = tuple[Task, tuple[int, ...]]
"""A task, and those of its items that are computed together."""


class _Stopped(Exception):  # noqa: N818 - no error: nobody waits for the batch any more
    pass


@dataclass(eq=False)
class _Slot:
    """A batch that is asked for. done: it is there, or could not be read (None)."""

    key: Key
    batch: Batch | None = None
    done: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False


def read_batch(plan: Plan, task: Task, positions: Iterable[int]) -> Batch:
    """Return items of a task as the plan's models see them, on the CPU."""
    try:
        return plan.part(task.part).batch(
            positions,
            plan.geometry,
            plan.protocol.box_min_visible,
            identify=True,
            skip_unreadable=plan.skip_unreadable,
        )
    except UnreadableImage as error:
        raise UnreadableImage(
            f"{error} To leave out images that cannot be read, add --skip-unreadable; finished "
            "tasks are kept."
        ) from error


class Reader:
    """Reads batches of a plan's tasks; those that are expected in a thread of its own, in the order
    of asking.

    A batch is the same whoever reads it. One that the thread cannot read is read again by who asks
    for it, so that its error is raised where, and as, it would be without the thread.

    pinned: batches are put into memory that a GPU copies from by itself.
    """

    def __init__(self, plan: Plan, pinned: bool = False) -> None:
        self.plan, self.pinned = plan, pinned
        self._slots: dict[Key, _Slot] = {}
        self._queue: deque[_Slot] = deque()
        self._wanted = threading.Condition()
        self._reading = threading.Lock()  # sources are read by one thread at a time
        self._thread: threading.Thread | None = None
        self._closed = False

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def expect(self, parts: Mapping[Task, Iterable[Collection[int]]]) -> None:
        """Begin to read the items of tasks, task by task and part by part; what was expected of
        others is dropped.
        """
        with self._wanted:
            for key in [key for key in self._slots if key[0] not in parts]:
                self._slots.pop(key).dropped = True
            for key in ((task, tuple(part)) for task, some in parts.items() for part in some):
                if key not in self._slots:
                    self._slots[key] = _Slot(key)
                    self._queue.append(self._slots[key])
            self._wanted.notify()
        if self._thread is None:
            # A daemon, so that a file system that hangs does not keep the process.
            self._thread = threading.Thread(target=self._work, name="cambench-reader", daemon=True)
            self._thread.start()

    def read(self, task: Task, positions: Collection[int]) -> Batch:
        """Return items of a task: those that are expected when they are there, others are read here
        and now.
        """
        with self._wanted:
            slot = self._slots.pop((task, tuple(positions)), None)
        if slot is not None:
            slot.done.wait()
            if slot.batch is not None:
                return slot.batch
        with self._reading:
            return self._finish(read_batch(self.plan, task, positions))

    def close(self) -> None:
        """Stop reading: the image that is being read is the last one."""
        with self._wanted:
            self._closed = True
            self._wanted.notify()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        self._slots.clear()
        self._queue.clear()

    def _work(self) -> None:
        while True:
            with self._wanted:
                while not (self._queue or self._closed):
                    self._wanted.wait()
                if self._closed:
                    break
                slot = self._queue.popleft()
            self._fill(slot)
            del slot  # the thread holds no batch while it waits

    def _fill(self, slot: _Slot) -> None:
        task, positions = slot.key
        try:
            with self._reading:
                slot.batch = self._finish(
                    read_batch(self.plan, task, self._yield_until_stopped(slot, positions))
                )
        except BaseException:  # whatever it is, it is raised again where the batch is asked for
            slot.batch = None
        finally:
            slot.done.set()

    def _yield_until_stopped(self, slot: _Slot, positions: Iterable[int]) -> Iterator[int]:
        for position in positions:
            if self._closed or slot.dropped:
                raise _Stopped
            yield position

    def _finish(self, batch: Batch) -> Batch:
        return batch.pin() if self.pinned else batch
