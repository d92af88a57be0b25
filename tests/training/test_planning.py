"""What a plan tells of memory, against tensors that are counted; and what must hold of any plan."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from pretrain import cli, config, help_text
from pretrain.commands.sizing import named_layout, sized
from pretrain.data.batches import Batches
from pretrain.errors import ConfigError
from pretrain.inspection.parameters import hollow
from pretrain.models.language_model import LOGITS_AT_ONCE, LanguageModel
from pretrain.stopping import Stop
from pretrain.training.dry_run import dry_run
from pretrain.training.hardware import Hardware, available_memory
from pretrain.training.planning import (
    Footprint,
    Layout,
    Passing,
    checkpoint_bytes,
    largest_micro_batch,
    memory,
    peak,
    scratch_bytes,
    step_seconds,
)
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

V = 2000
ROWS, LENGTH = 4, 96
SMALL = ["model.n_layer=3", "model.n_head=2", "model.n_embd=64", "model.context_length=96", "trainer.batch_tokens=960"]
RECURRENT = ["model.n_embd=64", "model.n_hidden=96"]


def settings_of(model: str, *words: str) -> dict[str, Any]:
    return cli._composed("train", [f"model={model}", *words])


def footprint_of(settings: dict[str, Any], length: int = LENGTH, vocab_size: int = V) -> Footprint:
    with hollow():
        model: LanguageModel = config.build(config.Part(settings["model"]), vocab_size=vocab_size)
    parts = (config.Part(settings["model"]), config.Part(settings["optimizer"]))
    return sized(model, *parts, length, settings["update"].get("ema_decay"))


@pytest.fixture(scope="module")
def gpt() -> Footprint:
    return footprint_of(settings_of("gpt_nano", *SMALL))


@pytest.mark.parametrize("micro_batch", [ROWS, ROWS // 2])
@pytest.mark.parametrize(
    ("name", "words", "dtype"),
    [
        ("gpt_nano", SMALL, torch.float32),
        ("gpt_nano", SMALL, torch.bfloat16),
        ("gpt_nano", [*SMALL, "optimizer=schedule_free"], torch.float32),
        ("gpt_nano", [*SMALL, "optimizer=lion"], torch.float32),
        ("gpt_nano", [*SMALL, "update.ema_decay=0.9"], torch.float32),
        ("gpt_nano", [*SMALL, "update.ema_decay=0.9"], torch.bfloat16),
        ("llama", SMALL, torch.float32),
        ("modern", SMALL, torch.float32),
        ("lstm", RECURRENT, torch.float32),
        ("mlp", RECURRENT, torch.float32),
    ],
)
def test_a_step_holds_about_the_tensors_that_the_plan_tells(
    name: str, words: list[str], dtype: torch.dtype, micro_batch: int, make_stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.models.language_model.ROWS_AT_LEAST", 1)
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 2**14)  # so that logits are made in several chunks
    settings = settings_of(name, *words)
    model: LanguageModel = config.build(config.Part(settings["model"]), vocab_size=V)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    optimizer = config.build(config.Part(settings["optimizer"]), parameters=parameters)
    tokens = torch.randint(V, (3 * ROWS * LENGTH + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = Batches(make_stream(tokens), LENGTH, ROWS, seed=0)
    parts = (model, batches, optimizer, Constant(warmup_steps=0), dtype, micro_batch, 0, Stop())
    update = GradientUpdate(*parts, max_grad_norm=1.0, ema_decay=settings["update"].get("ema_decay"))
    with Passing() as passing:
        update.step(0, 0, 0.0)
    of, several = footprint_of(settings), micro_batch < ROWS
    moments = memory(of, micro_batch * LENGTH, dtype.itemsize, "cpu", accumulates=several)
    there = ("weights", "optimizer", "checkpoint copy", "allocator", "context")
    comes = max(sum(size for part, size in parts.items() if part not in there) for parts in moments.values())
    assert comes == pytest.approx(passing.most, rel=0.1)


@pytest.mark.parametrize("name", help_text.options("optimizer"))
def test_the_state_and_the_scratch_of_an_optimizer_are_those_of_a_real_step(name: str) -> None:
    part = config.Part(cli._composed("train", [f"optimizer={name}"])["optimizer"])
    shapes = {"a.weight": (40, 30), "b.weight": (50, 40), "c.bias": (40,), "token_embedding.weight": (60, 30)}
    real = {name: torch.randn(shape) for name, shape in shapes.items()}
    optimizer = config.build(part, parameters=real)
    gradients = [torch.randn_like(parameter) for parameter in real.values()]
    with Passing() as passing:
        optimizer.step(gradients, 1e-3)
        optimizer.points()
    hollow_ones = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    told = scratch_bytes(config.build(part, parameters=hollow_ones), [tensor.shape for tensor in real.values()])
    # Without values some operations are done in smaller steps, which hold a little more.
    assert 0.95 * passing.most <= told <= 1.7 * passing.most + 256


def test_weights_gradients_and_optimizer_are_counted_by_their_bytes(gpt: Footprint) -> None:
    fp32 = memory(gpt, LENGTH, 4, "cuda")["update"]
    assert (fp32["weights"], fp32["optimizer"]) == (4 * gpt.parameters, 8 * gpt.parameters)
    assert 0 <= fp32["gradients"] - 4 * gpt.parameters < 16  # AdamW's number of steps comes and goes
    bf16 = memory(gpt, LENGTH, 2, "cuda")["update"]
    assert (bf16["weights"], bf16["optimizer"]) == (6 * gpt.parameters, 8 * gpt.parameters)
    averaged = memory(replace(gpt, averaged=True), LENGTH, 2, "cuda")["update"]
    assert averaged["weights"] == 8 * gpt.parameters
    ema = footprint_of(settings_of("gpt_nano", *SMALL, "update.ema_decay=0.9"))
    moving = memory(ema, LENGTH, 2, "cuda")["update"]
    # The average, its copy in bf16, and the weights with theirs: the weights in fp32 are a part of the state.
    assert (moving["weights"], moving["optimizer"]) == (8 * gpt.parameters, 12 * gpt.parameters)
    assert checkpoint_bytes(ema) == 16 * gpt.parameters
    assert checkpoint_bytes(gpt) == 12 * gpt.parameters


def test_more_tokens_take_more_and_recomputing_takes_less(gpt: Footprint) -> None:
    sizes = [peak(memory(gpt, tokens, 2, "cuda"))[1] for tokens in (1000, 2000, 4000, 100_000)]
    assert sizes == sorted(set(sizes))
    selective = memory(gpt, 100_000, 2, "cuda", Layout(activations="selective"))["loss"]["activations"]
    again = memory(gpt, 100_000, 2, "cuda", Layout(activations="full"))["loss"]["activations"]
    assert again < selective < memory(gpt, 100_000, 2, "cuda")["loss"]["activations"]


def test_shards_part_what_replicas_repeat(gpt: Footprint) -> None:
    alone, copies, parted = (
        memory(gpt, LENGTH, 2, "cuda", layout)["update"] for layout in (None, Layout(replicas=4), Layout(shards=4))
    )
    assert copies == alone
    for part in ("weights", "gradients", "optimizer"):
        whole = 4 * gpt.parameters if part == "weights" else alone[part]  # no copy in bf16 stays
        assert parted[part] == pytest.approx(whole / 4, rel=1e-3)
    together = memory(gpt, LENGTH, 2, "cuda", Layout(tensor=2))["loss"]
    single = memory(gpt, LENGTH, 2, "cuda")["loss"]
    assert single["activations"] / 2 < together["activations"] < single["activations"]
    blocks = gpt.blocks * gpt.block
    assert together["weights"] == 6 * (gpt.parameters - blocks + blocks // 2)


def test_the_largest_micro_batch_fits_and_divides() -> None:
    assert largest_micro_batch(24, lambda size: size <= 7) == 6
    assert largest_micro_batch(24, lambda size: True) == 24
    assert largest_micro_batch(7, lambda size: size <= 6) == 1
    assert largest_micro_batch(7, lambda size: False) is None


def test_twice_the_ranks_take_half_the_time(gpt: Footprint) -> None:
    one = step_seconds(gpt, 1e15, 1e14, 1e12)
    assert one[0] == 10.0
    two = step_seconds(gpt, 1e15, 1e14, 1e12, Layout(shards=2))
    assert two == (one[0] / 2, one[1] / 2)
    assert step_seconds(gpt, 1e15, 1e14, 1e12, Layout(replicas=2)) == (one[0] / 2, one[1])


def test_a_layout_uses_every_rank_or_is_refused() -> None:
    for option, ranks, settings in (
        ("none", 1, {}),
        ("ddp", 6, {}),
        ("fsdp", 1024, {}),
        ("hsdp", 64, {}),
        ("hsdp", 12, {"shards": 4}),
        ("tensor", 64, {"size": 4}),
    ):
        assert named_layout(option, ranks, settings).ranks == ranks
    assert named_layout("hsdp", 12, {"shards": 4}) == named_layout("fsdp", 12, {"shards": 4}) == Layout(3, 4)
    assert named_layout("fsdp", 12, {"shards": None}, "full") == Layout(shards=12, activations="full")
    assert named_layout("tensor", 8, {}) == Layout(tensor=8)
    assert named_layout("tensor", 8, {"size": 2}) == Layout(replicas=4, tensor=2)
    for option, ranks, settings in (("none", 2, {}), ("hsdp", 12, {"shards": 8}), ("tensor", 6, {"size": 4})):
        with pytest.raises(ConfigError, match="cannot be shared"):
            named_layout(option, ranks, settings)


def test_every_gpu_is_known_by_names_of_its_own() -> None:
    parts = [cli._composed("plan", [f"hardware={option}"])["hardware"] for option in help_text.options("hardware")]
    gpus = [part for part in parts if part["device"] == "cuda"]
    names = [name for part in gpus for name in part["names"]]
    assert len(names) == len(set(names)) >= len(gpus) >= 6
    for part in gpus:
        assert part["names"]
        assert 1e13 < part["flops_per_second"] < 1e16
        assert part["memory_bytes"] >= 16e9


def test_what_is_null_is_measured_on_this_machine() -> None:
    part = config.Part(cli._composed("plan", ["hardware=cpu"])["hardware"])
    cpu: Hardware = config.build(part)
    assert 2**28 < available_memory() <= cpu.memory_bytes
    assert 1e8 < cpu.speed(torch.float32) < 1e15
    assert 1e8 < cpu.bandwidth() < 1e13
    told: Hardware = config.build(config.Part(part | {"flops_per_second": 3e12, "bytes_per_second": 5e9}))
    assert (told.speed(torch.float32), told.bandwidth()) == (3e12, 5e9)


def test_a_model_that_counts_has_no_footprint() -> None:
    with pytest.raises(ConfigError, match="counts"):
        footprint_of(settings_of("bigram"))


def test_the_largest_presets_are_planned_without_their_memory() -> None:
    of = footprint_of(settings_of("llama3_70b"), 8192, 128_256)
    assert of.parameters == 70_553_706_496
    assert of.blocks * of.block < of.parameters < of.blocks * of.block + 3 * of.head
    moments = memory(of, 8192, 2, "cuda", Layout(shards=64, activations="full"))
    assert sum(moments["update"].values()) < 80e9 < peak(memory(of, 8192, 2, "cuda"))[1]


def test_a_dry_run_of_a_thousand_ranks_keeps_what_the_plan_tells() -> None:
    part = config.Part(settings_of("gpt_nano", *SMALL)["model"])
    of = footprint_of(settings_of("gpt_nano", *SMALL), vocab_size=4096)
    make_model = partial(config.build, part, vocab_size=4096)
    ran = dry_run(make_model, Layout(replicas=128, shards=8), torch.bfloat16)
    assert ran["parameters"] == ran["gradients"] == of.parameters // 8
    # All weights are gathered in bf16, blocks once more for the backward pass, and gradients reduced in fp32.
    assert ran["exchanges"]["all_gather"]["bytes"] == 2 * (of.parameters + of.blocks * of.block)
    assert ran["exchanges"]["reduce_scatter"]["bytes"] == 4 * of.parameters
    assert ran["exchanges"]["all_reduce"]["bytes"] == 4 * of.parameters // 8
    copies = dry_run(make_model, Layout(replicas=1024), torch.bfloat16)
    assert copies["parameters"] == of.parameters
    with pytest.raises(ConfigError, match="parallel=fsdp"):
        dry_run(make_model, Layout(tensor=2), torch.bfloat16)
    experts = config.Part(settings_of("gpt_nano", *SMALL, "model.n_expert=4")["model"])
    with pytest.raises(ConfigError, match="depends on its tokens"):
        dry_run(partial(config.build, experts, vocab_size=64), Layout(shards=2), torch.bfloat16)
