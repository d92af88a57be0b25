"""What `plan` and `train` both ask before a run: what it takes of memory, and how many rows fit."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import OmegaConf

from pretrain.config import Part, TrainConfig, build, configs_dir
from pretrain.errors import ConfigError
from pretrain.inspection.parameters import hollow
from pretrain.models.language_model import LanguageModel
from pretrain.tracking.console import warn
from pretrain.training.hardware import Hardware, available_memory
from pretrain.training.optimizers import Optimizer
from pretrain.training.optimizers.averaged import Averaged
from pretrain.training.parallel import Parallel
from pretrain.training.planning import (
    Activations,
    Footprint,
    Layout,
    footprint,
    largest_micro_batch,
    memory,
    peak,
    training_flops,
)
from pretrain.training.precision import DTYPES

# What ranks are shared into by each option of `parallel`: the first that its settings leave open takes those left over.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "ddp": ("replicas",),
    "fsdp": ("shards", "replicas"),
    "hsdp": ("shards", "replicas"),
    "tensor": ("tensor", "replicas"),
}
WAYS = {"Single": "none", "DDP": "ddp", "FSDP": "fsdp", "TensorParallel": "tensor"}  # the option that each class is

# Of a device's memory that `trainer.micro_batch=auto` may fill by the plan; on a CPU others need some, and holes grow.
SHARE = {"cpu": 0.6, "cuda": 0.8}


def sized(model: LanguageModel, part: Part, optimizer: Part, length: int, ema_decay: float | None = None) -> Footprint:
    """What the memory of a training follows from; `model` and the optimizer that is built for it need no values."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moving: Optimizer = build(optimizer, parameters=parameters)
    if ema_decay is not None:
        moving = Averaged(moving, parameters, ema_decay)
    return footprint(model, moving, length, part.get("n_head"))


def first_micro_batch(
    settings: TrainConfig,
    precision: str,
    device: torch.device,
    make_model: Callable[[], LanguageModel],
    parallel: Parallel,
) -> int:
    """Rows computed at once in a run that begins: those that are set, or as many as fit in the memory of `device`.

    Args:
        parallel: joined, for what each process holds and reads depends on how many there are.
    """
    asked = settings.trainer.micro_batch
    # On a CPU rows that stay in its cache are faster than as many as its memory holds.
    if asked != "auto" and not (asked is None and device.type == "cuda"):
        return settings.micro_batch
    with hollow():
        model = make_model()
    if not any(True for _ in model.parameters()):  # a model that counts has no micro-batches
        return settings.micro_batch
    length, way = settings.sequence_length, WAYS[settings.parallel["_target_"].rpartition(".")[2]]
    layout = named_layout(way, parallel.ranks, settings.parallel, settings.trainer.activation_checkpointing)
    of = sized(model, settings.model, settings.optimizer, length, settings.update.get("ema_decay"))
    rows = max(1, settings.rows // layout.readers)
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else available_memory()
    if device.type != "cuda":
        total //= parallel.local_ranks  # which share the machine's memory
    room = SHARE.get(device.type, 0.6) * total

    def taken(micro_batch: int) -> int:
        sizes = (micro_batch * length, DTYPES[precision].itemsize)
        return peak(memory(of, *sizes, device.type, layout, accumulates=micro_batch < rows))[1]

    largest = largest_micro_batch(rows, lambda micro_batch: taken(micro_batch) <= room)
    if largest is None:
        warn(
            f"by the plan even one row of {length:,} tokens takes {taken(1) / 1e9:.1f} GB, and there is room for "
            f"{room / 1e9:.1f} GB; it is tried"
        )
    return largest or 1


def tokens_at_peak(model: LanguageModel, precision: str, length: int) -> float | None:
    """Tokens a second if the model's GPU did nothing but its products at the data sheet's speed; None: not known.

    Args:
        length: tokens of a row.
    """
    parameter = next(model.parameters(), None)
    if parameter is None or precision not in ("bf16", "fp16"):  # data sheets have one speed for both
        return None
    hardware = known_hardware(parameter.device)
    return hardware.speed(torch.bfloat16) / training_flops(model, length) if hardware else None


def known_hardware(device: torch.device) -> Hardware | None:
    """The option of configs/hardware that this GPU is; None where none has its name."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for part in _options().values():
        if name in part["names"]:
            hardware: Hardware = build(part)
            return hardware
    return None


def _options() -> dict[str, Part]:
    files = sorted((configs_dir() / "hardware").glob("*.yaml"))
    parts: dict[str, Any] = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}
    return parts


def named_layout(option: str, ranks: int, settings: Mapping[str, Any], activations: Activations = "none") -> Layout:
    """The layout of `ranks` that an option of the group `parallel` means.

    Args:
        settings: the option's, of which shards and size (of a tensor-parallel group) are looked at, where it has them.
        activations: as in Layout.

    Raises:
        ConfigError: the ranks cannot be shared so.
    """
    kinds = LAYOUTS[option]
    asked = {"shards": settings.get("shards"), "tensor": settings.get("size")}
    sizes: dict[str, int] = {kind: size for kind, size in asked.items() if kind in kinds and size}
    fixed = math.prod(sizes.values())
    taker = next((kind for kind in kinds if kind not in sizes), None)
    if ranks % fixed or (taker is None and ranks != fixed):
        nearest = fixed * max(1, round(ranks / fixed)) if taker else fixed
        raise ConfigError(f"{ranks} processes cannot be shared by parallel={option}; try {nearest}")
    if taker:
        sizes[taker] = ranks // fixed
    return Layout(sizes.get("replicas", 1), sizes.get("shards", 1), sizes.get("tensor", 1), activations)
