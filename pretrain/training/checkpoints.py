"""Checkpoints: whole or not there, with a checksum of every file, and never a pickle.

runs/NAME/latest                     the name of the newest step's folder
runs/NAME/checkpoints/step_00000100/ model.safetensors update.safetensors state.json config.yaml tokenizer.json
                                     manifest.json (the format's version and the checksums of the others)
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain.data.manifests import MANIFEST, checksum, write_json
from pretrain.errors import CheckpointError, UsageError

FORMAT = 1


@dataclass
class TrainingState:
    """All that survives a restart beside tensors.

    Attributes:
        step: steps done; the next batch's number.
        tokens: read so far.
        seconds: of training so far.
        loss_sum, loss_steps: training loss since the last evaluation.
        train_loss: its mean at the last evaluation.
        validation_loss: at the last evaluation, nats per token; None where infinite.
    evaluated_step: the step of it.
        skipped_steps: steps that left the model alone.
        precision: of the products, as chosen at the start.
        micro_batch: rows computed at once, as chosen at the start.
        threads: CPU threads.
    """

    precision: str
    micro_batch: int
    threads: int
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    train_loss: float | None = None
    validation_loss: float | None = None
    evaluated_step: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """One step's folder, read and verified."""

    folder: Path
    weights: dict[str, Tensor]
    update: dict[str, Tensor]
    state: TrainingState


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: the run's folder.
        keep: newest ones that stay; the one with the best validation loss stays as well.
    """

    def __init__(self, run: Path, keep: int = 1) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.keep = keep

    def save(
        self, state: TrainingState, weights: dict[str, Tensor], update: dict[str, Tensor], config: str, tokenizer: Path
    ) -> None:
        """Write a checkpoint under a temporary name, sync it, rename it, and only then name it the latest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_partial()
        final = self.folder / f"step_{state.step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        temporary.mkdir()
        try:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
                temporary / "model.safetensors",
            )
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in update.items()},
                temporary / "update.safetensors",
            )
            write_json(temporary / "state.json", asdict(state))
            (temporary / "config.yaml").write_text(config, "utf-8")
            shutil.copyfile(tokenizer, temporary / "tokenizer.json")
            sums = {file.name: checksum(file) for file in sorted(temporary.iterdir())}
            write_json(temporary / MANIFEST, {"format": FORMAT, "checksums": sums})
            for file in temporary.iterdir():
                _sync(file)
            _sync(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(self.folder)
        self._name_latest(final.name)
        self._retire()

    def newest(self, warn: Any) -> Checkpoint | None:
        """The newest checkpoint that is whole; `warn` is told of damaged ones that were passed over.

        Raises:
            CheckpointError: there are checkpoints, but none is whole.
        """
        damaged: CheckpointError | None = None
        for folder in self._candidates():
            try:
                checkpoint = read_checkpoint(folder)
            except CheckpointError as error:
                warn(f"{error}; an older checkpoint is tried")
                damaged = damaged or error
            else:
                return checkpoint
        if damaged:
            raise damaged
        return None

    def find(self, step: int | str) -> Path:
        """The folder of a step: `latest`, `best` (by validation loss) or a number.

        Raises:
            UsageError: there is none.
        """
        there = sorted(self.folder.glob("step_*"))
        if not there:
            raise UsageError(f"the run {self.run} has no checkpoint yet")
        if step == "latest":
            return next(self._candidates())
        if step == "best":
            return min(there, key=_validation_loss)
        found = [folder for folder in there if folder.name == f"step_{int(step):08d}"] if str(step).isdigit() else []
        if not found:
            steps = ", ".join(str(int(folder.name.removeprefix("step_"))) for folder in there)
            raise UsageError(f"the run {self.run} has no checkpoint of step={step}; it has {steps}, latest and best")
        return found[0]

    def _candidates(self) -> Iterator[Path]:
        """What `latest` names, then the others from the newest on."""
        pointer = self.run / "latest"
        named = self.folder / pointer.read_text("utf-8").strip() if pointer.is_file() else None
        if named and named.is_dir():
            yield named
        for folder in sorted(self.folder.glob("step_*"), reverse=True):
            if folder != named:
                yield folder

    def _name_latest(self, name: str) -> None:
        temporary = self.run / ".latest.tmp"
        temporary.write_text(name + "\n", "utf-8")
        _sync(temporary)
        temporary.rename(self.run / "latest")
        _sync(self.run)

    def _retire(self) -> None:
        folders = sorted(self.folder.glob("step_*"))
        best = min(folders, key=_validation_loss)
        for folder in folders[: -self.keep]:
            if folder != best:
                shutil.rmtree(folder)

    def _remove_partial(self) -> None:
        for folder in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(folder)


def read_checkpoint(folder: Path, *, tensors: bool = True) -> Checkpoint:
    """Read a step's folder after comparing every file with its checksum.

    Args:
        tensors: whether to read weights and update as well.
    Raises:
        CheckpointError: a file is missing, damaged or of a newer format; the message names it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {manifest['format']}; this version reads format {FORMAT}")
        for name, expected in manifest["checksums"].items():
            if checksum(folder / name) != expected:
                raise CheckpointError(f"{folder / name} is damaged: its checksum differs from {MANIFEST}'s")
        known = {field.name for field in fields(TrainingState)}
        state = json.loads((folder / "state.json").read_text("utf-8"))
        weights = load_file(folder / "model.safetensors") if tensors else {}
        update = load_file(folder / "update.safetensors") if tensors else {}
        return Checkpoint(folder, weights, update, TrainingState(**{k: v for k, v in state.items() if k in known}))
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error


def _validation_loss(folder: Path) -> tuple[float, str]:
    try:
        loss = json.loads((folder / "state.json").read_text("utf-8"))["validation_loss"]
    except (OSError, ValueError, KeyError):
        loss = None
    return (float("inf") if loss is None else loss, folder.name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
