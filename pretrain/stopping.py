"""Stopping on SIGTERM and SIGINT: the first asks, the second ends the process at once."""

import os
import signal
from types import FrameType

from pretrain.errors import Interrupted


class Stop:
    """Whether a signal has asked the program to stop. Work that can be resumed calls `check` between its pieces."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

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
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
