"""A trained run, read back: what eval and sample start from."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.commands.run_folder import saved_settings
from pretrain.commands.train import build_model, build_objective
from pretrain.config import TrainConfig, parse
from pretrain.data.manifests import checksum, read_json
from pretrain.data.objectives import Objective
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.errors import CheckpointError, ConfigError, DataError
from pretrain.models.language_model import LanguageModel
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.tokenizer import Tokenizer
from pretrain.tracking.console import warn
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.checkpoints import Checkpoint, Checkpoints, TrainingState, read_checkpoint
from pretrain.training.precision import DTYPES
from pretrain.training.runs import find_run


@dataclass(frozen=True)
class LoadedRun:
    """Attributes:
    model: in the precision of its products, on the device.
    """

    folder: Path
    settings: TrainConfig
    state: TrainingState
    tokenizer: Tokenizer
    model: LanguageModel
    objective: Objective

    @property
    def other_objective(self) -> Objective | None:
        """The objective, where it is not to predict the next token."""
        return None if self.objective.in_order else self.objective


def load_run(name: str, step: int | str, runs_dir: str, device: torch.device, precision: str) -> LoadedRun:
    """The run called `name` at a step.

    Raises:
        UsageError: there is no such run or step.
        CheckpointError: the checkpoint is damaged, or names something that may not be built.
        DataError: the tokenizer is not the one that the model was trained with.
    """
    folder = find_run(name, Path(runs_dir))
    keep_freed_memory()
    checkpoint = _checkpoint(Checkpoints(folder), step)
    try:
        settings: TrainConfig = parse(saved_settings(checkpoint.folder), TrainConfig)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.folder / 'config.yaml'}: {error}") from error
    tokenizer_file = checkpoint.folder / "tokenizer.json"
    written = read_json(folder / "data_manifest.json")
    if written is not None and written["tokenizer"] != checksum(tokenizer_file):
        raise DataError(f"{tokenizer_file} is not the tokenizer that {folder} was trained with")
    tokenizer = load(tokenizer_file)
    objective = build_objective(settings, tokenizer.vocab_size, tokenizer.end_of_text)
    model = build_model(settings.model, tokenizer.vocab_size, objective.special_ids)
    model.load_weights(checkpoint.weights)
    dtype = DTYPES[checkpoint.state.precision if precision == "auto" else precision]
    if any(parameter.is_floating_point() for parameter in model.parameters()):
        model.to(dtype)
    return LoadedRun(folder, settings, checkpoint.state, tokenizer, model.to(device).eval(), objective)


def run_tokens(loaded: LoadedRun, split: str) -> TokenStream:
    """A split of the run's own tokens, as they were when it was trained.

    Raises:
        DataError: they are gone, changed or damaged.
    """
    written = read_json(loaded.folder / "data_manifest.json")
    if written is None:
        raise DataError(f"{loaded.folder} has no data_manifest.json, so its tokens are unknown")
    folder = Path(written.pop("folder"))
    if not folder.is_dir():
        raise DataError(f"the token shards {folder} of {loaded.folder} are gone; build them again: pretrain train ...")
    manifest = read_manifest(folder)
    if manifest != written:
        raise DataError(f"the token shards {folder} are no longer those that {loaded.folder} was trained on")
    stream = TokenStream(folder, split, manifest)
    stream.verify()
    return stream


def _checkpoint(checkpoints: Checkpoints, step: int | str) -> Checkpoint:
    folder = checkpoints.find(step)  # refuses a run without any
    if step != "latest":
        return read_checkpoint(folder)
    newest = checkpoints.newest(warn)
    assert newest is not None, "find() has seen one"
    return newest
