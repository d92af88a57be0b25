"""Weights & Biases. Nothing that happens there stops a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pretrain.tracking.console import warn


class Wandb:
    """A run there, with the same rows as metrics.jsonl.

    Args:
        name: of the run.
        folder: of the run; wandb keeps its files inside.
        settings: the run's config.
        project: project's name there.
        mode: offline needs neither login nor network.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: dict[str, Any],
        *,
        project: str,
        mode: Literal["online", "offline", "disabled"],
    ) -> None:
        self._run: Any = None
        self._guarded(lambda: self._start(name, folder, settings, project, mode))

    def log(self, row: dict[str, Any]) -> None:
        if self._run is not None:
            self._guarded(lambda: self._run.log(row, step=row["step"]))

    def close(self) -> None:
        if self._run is not None:
            self._guarded(lambda: self._run.finish())

    def _start(self, name: str, folder: Path, settings: dict[str, Any], project: str, mode: Any) -> None:
        import wandb  # half a second that only those who chose it pay

        self._run = wandb.init(
            project=project,
            name=name,
            id=folder.name,
            resume="allow" if mode == "online" else None,
            dir=str(folder),
            config=settings,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def _guarded(self, call: Callable[[], Any]) -> None:
        """Do `call`; the first failure is told once and ends the tracking."""
        try:
            call()
        except Exception as error:  # noqa: BLE001  whatever breaks in a tracker, the training is worth more
            self._run = None
            warn(f"wandb stopped working and is left out from here on: {type(error).__name__}: {error}")
