"""Where a run starts and where it ends: its data, the checkpoint that it goes on from, and its limits.

Of several processes rank 0 looks, and the others take what it found.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from pretrain.commands.data import Prepared, prepare
from pretrain.commands.sizing import WAYS, first_micro_batch
from pretrain.config import TrainConfig
from pretrain.data.batches import Batches
from pretrain.errors import UsageError
from pretrain.models.language_model import LanguageModel
from pretrain.stopping import Stop
from pretrain.tracking.console import say, warn
from pretrain.training.checkpoints import Checkpoint, Checkpoints, TrainingState, read_checkpoint
from pretrain.training.compiling import Compilation
from pretrain.training.loop import Limits
from pretrain.training.parallel import Parallel
from pretrain.training.precision import chosen_precision
from pretrain.training.updates import Update


def prepared_data(settings: TrainConfig, parallel: Parallel, stop: Stop) -> Prepared:
    """The data, brought up to date by rank 0."""

    def bring() -> str:
        data = prepare(settings.data, settings.tokenizer, settings.executor, settings.seed, settings.data_dir, stop)
        return json.dumps([str(data.folder), str(data.tokenizer)])

    folder, tokenizer = (Path(path) for path in json.loads(parallel.turn(bring)))
    if not folder.is_dir():
        raise UsageError(f"{folder} is not seen by every process; name a data_dir on a disk that all machines share")
    return Prepared(folder, tokenizer, [], [], {}, None)


def newest_checkpoint(checkpoints: Checkpoints, parallel: Parallel) -> Checkpoint | None:
    """The newest checkpoint that is whole, which rank 0 chooses, once the last one is written."""

    def choose() -> str:
        checkpoints.wait()
        checkpoints.remove_partial()
        found = checkpoints.newest(warn)
        return str(found.folder) if found else ""

    chosen = parallel.turn(choose)
    return read_checkpoint(Path(chosen)) if chosen else None


def first_state(
    settings: TrainConfig, device: torch.device, make_model: Callable[[], LanguageModel], parallel: Parallel
) -> TrainingState:
    """The state of a run that has not begun."""
    precision = chosen_precision(settings.precision, device)
    micro_batch = int(parallel.same(first_micro_batch(settings, precision, device, make_model, parallel)))
    state = TrainingState(precision, micro_batch, torch.get_num_threads())
    # On a CPU, where a resumed run has the same bits, no stopwatch decides on them.
    found_out = None if device.type == "cuda" else False
    state.compiled = found_out if settings.trainer.compile == "auto" else bool(settings.trainer.compile)
    return state


def compilation_of(settings: TrainConfig, state: TrainingState, parallel: Parallel) -> Compilation:
    """As the run has chosen, where each process has the whole model."""
    whole = WAYS[settings.parallel["_target_"].rpartition(".")[2]] in ("none", "ddp")
    return Compilation(state.compiled if whole else False, say, parallel.same)


def limits_of(settings: TrainConfig, batches: Batches, update: Update) -> Limits:
    """Where the run ends, by its settings and by what there is to learn from."""
    trainer = settings.trainer
    epoch_tokens = batches.rows_per_epoch * batches.sequence_length
    tokens = [trainer.max_tokens, None if trainer.epochs is None else int(trainer.epochs * epoch_tokens)]
    return Limits(trainer.max_steps, _least(tokens), trainer.max_seconds, update.most_batches())


def _least(limits: list[int | None]) -> int | None:
    return min((most for most in limits if most is not None), default=None)


def described(
    folder: Path,
    settings: TrainConfig,
    update: Update,
    state: TrainingState,
    device: torch.device,
    parallel: Parallel,
) -> str:
    """What a user sees of a run as it begins."""
    parameters = parallel.parameter_count(update.model)  # 0 for counts that are not yet counted
    return (
        f"{folder} from step {state.step:,}: "
        + (f"{parameters:,} parameters, " if parameters else "")
        + f"{settings.trainer.batch_tokens:,} tokens a step = {settings.rows} rows of {settings.sequence_length} "
        f"({state.micro_batch} at once), {state.precision} on {device.type}, {state.threads} threads"
        + (f" in each of {parallel.ranks} processes" if parallel.ranks > 1 else "")
    )
