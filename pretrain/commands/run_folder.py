"""A run's folder: its name, what it was started with, and whether a run may go on in it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from pretrain.commands.data import Prepared
from pretrain.config import NEXT_TOKEN, TrainConfig
from pretrain.data.manifests import read_json, write_json
from pretrain.data.shards import read_manifest
from pretrain.errors import ConfigError
from pretrain.training.environment import environment
from pretrain.training.runs import SWEEP

# Settings that do not change what is learned: a run goes on with others.
FREE = {
    "name",
    "runs_dir",
    "data_dir",
    "device",
    "threads",
    "format",
    "executor",
    "tracker",
    "decoding",
    "sample",
    "eval",
    "law",
    "parallel",
}
LIMITS = {"trainer.max_steps", "trainer.max_tokens", "trainer.epochs", "trainer.max_seconds"}
RHYTHM = {
    "trainer.eval_tokens",
    "trainer.keep_checkpoints",
    "trainer.keep_every",
    "trainer.checkpoint_every",
    "trainer.loader_workers",
    "trainer.activation_checkpointing",
    "trainer.compile",
    "update.log_noise",
}
# Settings that there have not always been, with the values that change nothing: older runs do not name them, and go on.
ADDED: dict[str, Any] = {
    "budget": {},
    "objective._target_": NEXT_TOKEN,
    "trainer.packing": "stream",
    "trainer.double_batch_at": [],
    "update.spike_action": "log",
    "update.spike_threshold": 8.0,
    "update.spike_window": 128,
    "update.ema_decay": None,
    "update.z_loss": 0.0,
    "schedule.warmup_tokens": None,
}
# Where classes lay when older runs named them, and where they are now.
MOVED = {"pretrain.training.optimizers.AdamW": "pretrain.training.optimizers.adamw.AdamW"}


def run_folder(settings: TrainConfig, data_key: str, sweep: tuple[Path, list[str]] | None) -> Path:
    """Where the run of these settings and this data lies.

    Args:
        sweep: the sweep's folder and this job's own choices.
    Raises:
        ConfigError: a sweep lies there.
    """
    if sweep:
        return sweep[0] / ",".join(sweep[1]).replace("/", ".")
    if settings.name:
        folder = Path(settings.runs_dir) / settings.name
        if (folder / SWEEP).is_file():
            raise ConfigError(f"{folder} is a sweep, not a single run; choose another name=")
        return folder
    choices = HydraConfig.get().runtime.choices
    which = digest([_mattering(asdict(settings)), data_key])
    return Path(settings.runs_dir) / f"{choices['model']}-{choices['tokenizer']}-{which}"


def saved_settings(folder: Path) -> dict[str, Any]:
    """The config.yaml of a run or a checkpoint as plain mappings."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    for part in settings.values():
        if isinstance(part, dict) and part.get("_target_") in MOVED:
            part["_target_"] = MOVED[part["_target_"]]
    return dict(settings)


def refuse_changes(settings: TrainConfig, data_key: str, folder: Path) -> None:
    """Refuse to go on with a run whose settings or data were others."""
    before, now = _mattering(saved_settings(folder)), _mattering(asdict(settings))
    changed = [
        f"{key} was {before.get(key, 'not set')} and is now {now.get(key, 'not set')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if not changed and read_json(folder / "data_manifest.json")["key"] != data_key:
        changed = ["the data is no longer the same"]
    if changed:
        raise ConfigError(f"{folder} was started with other settings: {'; '.join(changed)}; choose another name=")


def write_beginnings(folder: Path, config: str, prepared: Prepared) -> None:
    """What a run knows before its first step."""
    (folder / "config.yaml").write_text(config, "utf-8")
    write_json(
        folder / "data_manifest.json", read_manifest(prepared.folder) | {"folder": str(prepared.folder.absolute())}
    )
    shutil.copyfile(prepared.tokenizer, folder / "tokenizer.json")
    write_json(folder / "environment.json", environment())


def _mattering(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted key to value, for the settings that a run cannot change half-way."""
    open_ended = settings["schedule"]["_target_"].endswith((".Constant", ".InverseSqrt"))
    free = FREE | RHYTHM | (LIMITS if open_ended else set())
    mattering = {key: value for key, value in _flat(settings, "") if key not in free and key.split(".")[0] not in free}
    return {key: value for key, value in mattering.items() if key not in ADDED or value != ADDED[key]}


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def digest(content: Any) -> str:
    """Eight hexadecimal digits for anything that JSON can hold."""
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())[:8]
