"""A process before the one that sends: should it be killed, the sender finishes what is on its way, and marks it.

SIGKILL gives no process time for anything. But who kills a command knows its process, and that one only waits here: the
sender, its child, sees its end by a pipe that only the parent holds open.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_possible() -> bool:
    """Whether this process may fork: other threads may hold locks, and other systems' libraries mind."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Generator[None]:
    """Have the signals that ask a run to stop go to `handler` meanwhile; none that is ignored, as SIGHUP by nohup."""
    heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in heeded]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


def guarded(work: Callable[[int], int]) -> int:
    """Run `work` in a child and return its exit code; negative where a signal killed it.

    `work` gets a descriptor that can be read, and gives nothing, once this process is gone. A signal that asks to stop
    raises KeyboardInterrupt in it, but where it is `handling` them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    life, mine = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    child = os.fork()
    if not child:
        os.close(mine)
        _run(lambda: work(life), before)
    os.close(life)

    def forward(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)

    with handling(forward):
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            os.close(mine)


def _run(work: Callable[[], int], mask: Iterable[int]) -> NoReturn:
    code = 1
    try:
        with handling(signal.default_int_handler):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = work()
    except KeyboardInterrupt:
        sys.stderr.write("Aborted!\n")  # as click says
    except BaseException as error:  # noqa: BLE001 - this process must not return into the parent's code
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                continue  # whoever read it is gone
        os._exit(code)
