"""Steps of training by the program's own update, on rows of random tokens: what the speed benchmarks time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.random import default_rng

from pretrain import cli, config
from pretrain.data.batches import Batches
from pretrain.stopping import Stop
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.precision import DTYPES
from pretrain.training.updates import GradientUpdate

WARM = 3  # steps before a clock runs


class RandomBatches(Batches):
    """Rows of random ids, the same for the same number; nothing is read."""

    def __init__(self, rows: int, sequence_length: int, vocab_size: int) -> None:
        self.rows, self.sequence_length, self.vocab_size = rows, sequence_length, vocab_size
        self.packing, self.most_batches = "stream", None

    def pairs(self, number: int) -> Any:
        shape = (self.rows, self.sequence_length + 1)
        ids = default_rng(number).integers(0, self.vocab_size, shape)
        return ids[:, :-1].copy(), ids[:, 1:].copy()

    def targets(self, number: int) -> int:
        return self.rows * self.sequence_length

    tokens_in = targets

    def first_row(self, number: int) -> int:
        return number * self.rows

    def goes_on(self, number: int) -> bool:
        return False


@dataclass(frozen=True)
class Shape:
    """Of the rows of a step: rows a batch, rows at once, tokens a row, and ids."""

    rows: int
    micro_batch: int
    sequence_length: int
    vocab_size: int

    @property
    def tokens(self) -> int:
        return self.rows * self.sequence_length


def update_of(overrides: list[str], shape: Shape, precision: str, device: torch.device) -> GradientUpdate:
    """What `pretrain train` with `overrides` would step with, with weights from seed 1."""
    keep_freed_memory()
    torch.manual_seed(1)
    settings = cli._composed("train", overrides)
    model = config.build(config.Part(settings["model"]), vocab_size=shape.vocab_size).to(device)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    update: GradientUpdate = config.build(
        config.Part(settings["update"]),
        model=model,
        batches=RandomBatches(shape.rows, shape.sequence_length, shape.vocab_size),
        optimizer=config.build(config.Part(settings["optimizer"]), parameters=parameters),
        schedule=config.build(config.Part(settings["schedule"])),
        dtype=DTYPES[precision],
        micro_batch=shape.micro_batch,
        seed=1,
        stop=Stop(),
    )
    return update


def timed(
    sides: dict[str, Callable[[], object]], rounds: int, steps: int, done: Callable[[], None]
) -> dict[str, float]:
    """Median seconds of a step of each side; they take turns, so that a busy machine is busy for all.

    Args:
        steps: of a side in one round.
        done: waits for the device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():
        for _ in range(WARM):
            step()
    for _ in range(rounds):
        for name, step in sides.items():
            done()
            started = time.perf_counter()
            for _ in range(steps):
                step()
            done()
            seconds[name].append((time.perf_counter() - started) / steps)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
