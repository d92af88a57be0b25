"""Stopping on SIGTERM and SIGINT: the first asks, the second ends the process at once."""

import os
import signal
import time
from types import FrameType

from pretrain.errors import Interrupted


class Stop:
    """Whether a signal has asked the program to stop. Work that can be resumed calls `check` between its pieces.

    Attributes:
        forwarded_seconds: in which a second signal is still the first one, sent on by a launcher to which it came too.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.forwarded_seconds = 0.0
        self._came = 0.0

    def install(self) -> "Stop":
        """Take over SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        return self

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted where a signal has come."""
        if self.signal is not None:
            raise Interrupted(f"stopped by {self.signal.name}; the same command goes on from here")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._came = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._came >= self.forwarded_seconds:
            os._exit(128 + number)
