"""The state of a process: one store thread for each outbox's file, one fork hook and one exit hook."""

import atexit
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from butter_middleware._utils import log_thread
from butter_middleware.outbox import LocalOutbox, MemoryOutbox, SQLiteOutbox
from butter_middleware.pipeline.participant import Participant
from butter_middleware.pipeline.store_thread import StoreThread

if TYPE_CHECKING:
    from butter_middleware.pipeline.components import Components
    from butter_middleware.pipeline.pipeline import Pipeline

FORK_SECONDS: Final = 0.05
"""How long a fork waits until the files are closed."""
LOADING_SECONDS: Final = 5.0
"""How long a fork waits until a thread has loaded the HTTP client. This takes a tenth of a second, once."""


class _Process:
    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.forking = threading.RLock()
        """Held during a fork: otherwise the child of a second fork could begin while files are open."""
        self.pipelines: WeakSet[Pipeline] = WeakSet()
        self.threads: dict[StoreThread, str] = {}
        """The threads that have a file open, or may open it, with its path. A stopping one may have a successor."""
        self.unusable: set[str] = set()
        """Files that were open when this process was forked. Its SQLite has the parent's lock table."""
        self.hooked = False
        self.loading = threading.RLock()


_process: Final = _Process()


def register(pipeline: "Pipeline") -> None:
    """Let a pipeline start again in each forked child, and close at the interpreter's exit."""
    with _process.guard:
        _process.pipelines.add(pipeline)
        if not _process.hooked:
            _process.hooked = True
            atexit.register(_close_all)
            if hasattr(os, "register_at_fork"):  # not on Windows
                os.register_at_fork(
                    before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
                )


def join(components: "Components", kept: StoreThread | None, make: Callable[[StoreThread], Participant]) -> Participant:
    """Make a participant of a store thread. There is one thread for each file, and a new one for a store in memory.

    Args:
        components: The parts of a `Butter`.
        kept: The thread of an earlier start, if its store is in memory.
        make: Makes the participant.
    """
    with _process.guard:  # during the whole block, so that the last other participant does not end the thread meanwhile
        thread = _store_thread(components.outbox, kept, reads=components.reads)
        participant = make(thread)
        thread.participants = (*thread.participants, participant)
    return participant


def is_durable(outbox: LocalOutbox) -> bool:
    """Whether an outbox's content outlives this process. False for a file that this process must not open."""
    return outbox.durable and _path_of(outbox) not in _process.unusable


def _path_of(outbox: LocalOutbox) -> str:
    return outbox.path if isinstance(outbox, SQLiteOutbox) else ""


def _store_thread(outbox: LocalOutbox, kept: StoreThread | None, *, reads: bool) -> StoreThread:
    path = _path_of(outbox)
    if isinstance(outbox, SQLiteOutbox) and path in _process.unusable:
        message = (
            f"outbox {path}: this process was forked while the file was open, and must not open it. Captures are "
            "in memory only, and are lost with the process. Start worker processes instead of forking them."
        )
        log_thread.log(logging.CRITICAL, message, name="outbox", event="outbox", reason="forked")
        outbox, path = MemoryOutbox(clock=outbox.clock), ""
    for found, its_path in _process.threads.items():
        if its_path == path and not found.stopping:
            return found

    def gives_up() -> bool:
        return thread.stopping

    store = outbox.store(reads=reads, give_up=gives_up) if kept is None else kept.store
    thread = StoreThread(store, after=kept)
    if path:
        _process.threads[thread] = path
    return thread


def loading() -> AbstractContextManager[object]:
    """Return the lock that our threads hold while they import a module.

    If another thread is loading a module during a fork, Python never frees that module's import lock in the child, and
    the child would wait for it forever.
    """
    return _process.loading


def leave(participant: Participant, seconds: float) -> None:
    """Remove a participant. The last one ends the store's thread within `seconds`."""
    thread = participant.thread
    with _process.guard:
        is_last = thread.leave(participant, seconds)
    if is_last:
        thread.end()
        with _process.guard:
            for ended in [other for other in _process.threads if other.stopping and not other.alive]:
                del _process.threads[ended]
    else:
        thread.finish(participant, seconds)


def _before_fork() -> None:
    _process.forking.acquire()
    if threading.current_thread().name == "butter-store":
        return
    _process.loading.acquire(timeout=LOADING_SECONDS)
    threads = list(_process.threads)
    for thread in threads:
        thread.request_pause()
    for thread in threads:
        thread.await_pause(FORK_SECONDS / len(threads))


def _after_in_parent() -> None:
    with suppress(RuntimeError):  # it was not acquired in time
        _process.loading.release()
    for thread in list(_process.threads):
        thread.resume()
    _process.forking.release()


def _after_in_child() -> None:
    process = _process
    process.guard, process.forking, process.loading = threading.RLock(), threading.RLock(), threading.RLock()
    threads, process.threads = process.threads, {}
    for thread, path in threads.items():
        if not thread.paused:
            process.unusable.add(path)
        thread.store.forget()
    for pipeline in list(process.pipelines):
        pipeline.begin_anew()


def _close_all() -> None:
    for pipeline in list(_process.pipelines):
        pipeline.close(at_exit=True)
