"""torch.compile (https://doi.org/10.1145/3620665.3640366), where it is asked for or pays for itself.

What is compiled is the call that gives the losses: the model keeps its class and the names of its parameters, and
evaluation and sampling, whose shapes vary, go on without.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

COMPILE_SECONDS = 60.0  # about what compiling takes
SHARE = 0.1  # of the rest of a run that it may take to find out whether it pays
TIMED = 5  # steps of each kind
WARM = 2  # steps before them, which are not counted
FASTER = 0.97  # share of the time from which on compiling pays


class Compilation:
    """Whether losses are compiled: as chosen, or by timing a few steps of both kinds.

    What cannot be compiled runs as it is, and the reason is told.

    Args:
        choice: True or False; None: it is found out while the run goes on.
        tell: told what was found out, and what failed.
        same: makes a number the same on all processes.
        backend: of torch.compile.
    Attributes:
        choice: the same, once it is found out; a part of the run's state.
    """

    def __init__(
        self,
        choice: bool | None,
        tell: Callable[[str], None],
        same: Callable[[float], float] = float,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.choice = choice
        self._tell, self._same, self._backend = tell, same, backend
        self._works, self._probing = True, False
        self._compiled: Callable[..., Any] | None = None
        self._seconds: list[float] = []  # of the steps of this kind so far
        self._eager, self._first_progress = 0.0, 0.0

    @property
    def on(self) -> bool:
        return self._works and bool(self.choice or self._probing)

    def of(self, losses: Callable[..., Any]) -> Callable[..., Any]:
        """`losses`, a method that is always the same, or what it is compiled to."""
        if not self.on:
            return losses
        if self._compiled is None:
            self._tell("torch.compile: the first step takes up to a minute more")
            # A shape that comes later is compiled anew: kernels for all shapes would have other roundings than those of
            # a run that was resumed there.
            self._compiled = torch.compile(losses, dynamic=False, backend=self._backend)
        return self._compiled

    def failed(self, error: RuntimeError) -> bool:
        """Whether `error` came from the compiler, which is not used any more then."""
        if not self.on:
            return False
        from torch._dynamo.exc import TorchDynamoException  # takes a second, and is there already

        if not isinstance(error, TorchDynamoException):
            return False
        self._works = False
        said = [line.strip() for line in str(error).splitlines() if line.strip()]  # who raised, and what, as a rule
        self._tell(f"torch.compile failed, the run goes on without: {' '.join(said[:2]) or type(error).__name__}")
        return True

    def took(self, seconds: float, progress: float) -> None:
        """A step is done that took so long, and began when `progress` (0 to 1) of the run was done."""
        if self.choice is not None:
            # Only now, so that a compiler that a signal ended with its parent is asked again in the resumed run.
            self.choice = self.choice and self._works
            return
        self._first_progress = self._first_progress if self._seconds else progress
        self._seconds.append(self._same(seconds))
        if len(self._seconds) < WARM + TIMED:
            return
        found = median(self._seconds[WARM:])
        if self._probing:
            self.choice, self._probing = found < FASTER * self._eager, False
            self._tell(
                f"torch.compile: a step takes {found:.3g} s compiled and {self._eager:.3g} s not; "
                f"{'it stays on' if self.choice else 'it is left out'}"
            )
            return
        each = (progress - self._first_progress) / (len(self._seconds) - 1)  # of the run
        left = found * (1 - progress) / each if each else 0.0
        self._eager, self._seconds = found, []
        self._probing = left * SHARE >= COMPILE_SECONDS
        if not self._probing:
            self.choice = False
            self._tell(f"torch.compile is left out: the {left:.0f} s that are left are too few for it to pay")
