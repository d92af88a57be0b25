"""Checkpoints: whole or not there, with a checksum of every file, and never a pickle.

runs/NAME/latest                     the name of the newest step's folder
runs/NAME/checkpoints/step_00000100/ model.safetensors update.safetensors state.json config.yaml tokenizer.json
                                     manifest.json (the format's version and the checksums of the others)

Where several ranks write one, the tensors lie in parts: see checkpoint_parts.py.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain.data.manifests import MANIFEST, checksum, write_json
from pretrain.errors import CheckpointError, UsageError
from pretrain.training.checkpoint_parts import Parts, checksums_of_parts, wait_for_parts, write_part
from pretrain.training.parallel.pieces import Share

FORMAT = 1
IN_PARTS = 2  # the format of a checkpoint that several ranks wrote
ALL = Share(0, 1, {})
HURRY = 2.0  # seconds that other ranks' parts are still waited for when the run has failed


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
        skipped_windows: [first, last) of batch numbers that are passed over, ascending, since a rollback each.
        precision: of the products, as chosen at the start.
        micro_batch: rows computed at once, as chosen at the start.
        threads: CPU threads.
        compiled: whether losses are compiled; None: that is not found out yet. Older runs were not.
        choice: the settings that were chosen for a budget of seconds, and what was expected; empty where none were.
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
    skipped_windows: list[tuple[int, int]] = field(default_factory=list)
    compiled: bool | None = False
    choice: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.skipped_windows = [(first, last) for first, last in self.skipped_windows]  # JSON has no tuples


@dataclass(frozen=True)
class Checkpoint:
    """One step's folder, read and verified."""

    folder: Path
    weights: Mapping[str, Tensor]
    update: Mapping[str, Tensor]
    state: TrainingState


class Checkpoints:
    """The checkpoints of one run. They are written beside the training, which waits only while its tensors are copied.

    Args:
        run: the run's folder.
        keep: newest ones that stay; the one with the best validation loss stays as well.
        keep_every: checkpoints at a multiple of this many steps stay too; None: no others.
        patience_seconds: that the parts of other ranks may take longer than this one's.
    """

    def __init__(
        self, run: Path, keep: int = 1, keep_every: int | None = None, patience_seconds: float = 600.0
    ) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.keep = keep
        self.keep_every = keep_every
        self.patience_seconds = patience_seconds
        self._failed = threading.Event()
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._copies: Future[dict[str, Tensor]] | None = None  # room for a copy of every tensor, in memory of the CPU

    def prepare(self, weights: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> None:
        """Make room for the copies while the first steps run: memory that is touched first costs most of a copy.

        On a CPU it is waited for: room that is made beside a step takes a sixth more memory, in holes (EXPERIMENTS.md).
        """
        tensors = _joined(weights, update)
        self._copies = self._writer.submit(_room, tensors)
        if not any(tensor.is_cuda for tensor in tensors.values()):
            self._copies.result()

    def save(
        self,
        state: TrainingState,
        weights: Mapping[str, Tensor],
        update: Mapping[str, Tensor],
        config: str,
        tokenizer: Path,
        *,
        share: Share = ALL,
        last: bool = False,
    ) -> None:
        """Write a checkpoint of what everything is now, after the one before it is written.

        Args:
            share: what this process writes; part 0 waits for the others, and puts all of them in place.
            last: the tensors will not change any more: they are not copied, and the call returns when they are written.
        Raises:
            OSError: this one, or the one before it, could not be written; nothing of it is left.
        """
        self.wait()
        content = json.dumps(asdict(state), indent=1, allow_nan=False)
        if last:
            self._write(state.step, content, weights, update, config, tokenizer, share)
            return
        tensors = _joined(weights, update)
        copies = self._copies.result() if self._copies else {}
        # Some parts of a state grow, such as what is carried from row to row.
        copies = {name: copy for name, copy in copies.items() if name in tensors and copy.shape == tensors[name].shape}
        copies |= _room({name: tensor for name, tensor in tensors.items() if name not in copies})
        torch._foreach_copy_([copies[name] for name in tensors], list(tensors.values()))
        self._copies = Future()
        self._copies.set_result(copies)
        of_model = {name: copies[f"0/{name}"] for name in weights}
        of_update = {name: copies[f"1/{name}"] for name in update}
        parts = (state.step, content, of_model, of_update, config, tokenizer, share)
        self._writing = self._writer.submit(self._write, *parts)

    def wait(self) -> None:
        """Until the last checkpoint is written.

        Raises:
            OSError: it could not be.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def give_up(self) -> None:
        """The run has failed: the parts of other ranks may never come."""
        self._failed.set()

    def _write(
        self,
        step: int,
        state: str,
        weights: Mapping[str, Tensor],
        update: Mapping[str, Tensor],
        config: str,
        tokenizer: Path,
        share: Share,
    ) -> None:
        """Write under a temporary name, sync it, rename it, and only then name it the latest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step_{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        in_parts = share.parts > 1
        if not in_parts:
            self.remove_partial()
        temporary.mkdir(exist_ok=in_parts)
        if share.part > 0:
            write_part(temporary, share, weights, update)
            return
        try:
            if in_parts:
                write_part(temporary, share, weights, update)
                wait_for_parts(temporary, share.parts, self._patience(time.monotonic()))
            else:
                _save_tensors(weights, temporary / "model.safetensors")
                _save_tensors(update, temporary / "update.safetensors")
            (temporary / "state.json").write_text(state, "utf-8")
            (temporary / "config.yaml").write_text(config, "utf-8")
            shutil.copyfile(tokenizer, temporary / "tokenizer.json")
            known = checksums_of_parts(temporary)
            sums = {file.name: known.get(file.name) or checksum(file) for file in sorted(temporary.iterdir())}
            write_json(temporary / MANIFEST, {"format": IN_PARTS if in_parts else FORMAT, "checksums": sums})
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

    def _patience(self, began: float) -> Callable[[], float]:
        """Seconds that are left of those that other ranks' parts are waited for."""

        def left() -> float:
            if self._failed.is_set():
                self.patience_seconds = min(self.patience_seconds, time.monotonic() - began + HURRY)
            return began + self.patience_seconds - time.monotonic()

        return left

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
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
            steps = ", ".join(str(_step(folder)) for folder in there)
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
            if folder != best and not (self.keep_every and _step(folder) % self.keep_every == 0):
                shutil.rmtree(folder)

    def remove_partial(self) -> None:
        """Remove what a killed process left half-written."""
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
        if manifest["format"] not in (FORMAT, IN_PARTS):
            raise CheckpointError(
                f"{folder} has format {manifest['format']}; this version reads formats {FORMAT} and {IN_PARTS}"
            )
        for name, expected in manifest["checksums"].items():
            if checksum(folder / name) != expected:
                raise CheckpointError(f"{folder / name} is damaged: its checksum differs from {MANIFEST}'s")
        known = {field.name for field in fields(TrainingState)}
        state = json.loads((folder / "state.json").read_text("utf-8"))
        weights, update = (_read(folder, name, manifest["format"]) if tensors else {} for name in ("model", "update"))
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


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _joined(weights: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}/{name}": tensor for part, of in (("0", weights), ("1", update)) for name, tensor in of.items()}


def _room(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros like `tensors`, in memory of the CPU that is touched, and that a GPU can write to directly."""
    return {
        name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).zero_()
        for name, tensor in tensors.items()
    }


def _read(folder: Path, kind: str, form: int) -> Mapping[str, Tensor]:
    return Parts(folder, kind) if form == IN_PARTS else load_file(folder / f"{kind}.safetensors")


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
