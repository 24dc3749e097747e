"""Ctrl-C that cannot get lost.

Python drops a `KeyboardInterrupt` in finalizers and weak reference callbacks, C extensions drop it while they are being
imported, or turn it into another error. Commands import libraries when they need them, so any Ctrl-C may meet that.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CHECK_S = 0.1
"""Seconds until a `KeyboardInterrupt` that nothing handles counts as dropped."""


class Interrupts:
    """Handler of SIGINT that raises `KeyboardInterrupt` until the command ends.

    Attributes:
        received: True after a Ctrl-C, whatever became of its exception.
    """

    def __init__(self) -> None:
        self.received = False
        self._ended = threading.Event()
        self._checker: threading.Thread | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt`, and watch whether it is handled."""
        self.received = True
        if self._checker is None:
            self._checker = threading.Thread(target=self._repeat_if_dropped, daemon=True)
            self._checker.start()
        raise KeyboardInterrupt

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self._checker is not None:
            self._checker.join()

    def _repeat_if_dropped(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while not self._ended.wait(CHECK_S):
            current = sys._current_exceptions()[main]  # before Python 3.12 a tuple: type, value, traceback
            if current is None or current == (None, None, None):
                signal.pthread_kill(main, signal.SIGINT)


@contextmanager
def keep_interrupts() -> Iterator[Interrupts]:
    """Raise `KeyboardInterrupt` for each Ctrl-C, again and again where it was dropped.

    Without Python's own handler, or outside the main thread, nothing changes.
    """
    interrupts = Interrupts()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupts.end()
