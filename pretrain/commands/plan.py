"""`pretrain plan`: what a training takes, before it runs."""

from functools import partial
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from pretrain.commands.sizing import named_layout, sized
from pretrain.commands.train import build_model
from pretrain.config import PlanConfig, build
from pretrain.errors import ConfigError
from pretrain.inspection.parameters import components, hollow
from pretrain.models.language_model import LanguageModel
from pretrain.reporting.tables import byte_size, share, show_table
from pretrain.tracking.console import duration
from pretrain.training.hardware import Hardware
from pretrain.training.planning import (
    OPTIMAL_TOKENS_PER_PARAMETER,
    Footprint,
    Layout,
    Memory,
    checkpoint_bytes,
    checkpoints_at_once,
    largest_micro_batch,
    memory,
    peak,
    step_seconds,
    training_flops,
)
from pretrain.training.precision import DTYPES, chosen_precision

VOCAB_SIZE = 50_257  # of a model that no tokenizer and no setting gives one: GPT-2's
MOMENTS = {"loss": "at the loss", "backward": "after the backward pass", "update": "at the update"}


def run(settings: PlanConfig) -> dict[str, Any]:
    """The plan as a JSON document.

    Raises:
        ConfigError: the ranks or the batch cannot be shared, or not even one row fits.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    choices = HydraConfig.get().runtime.choices
    hardware: Hardware = build(settings.hardware)
    activations = settings.trainer.activation_checkpointing
    layout = named_layout(choices["parallel"], settings.plan.ranks, settings.parallel, activations)
    length = settings.sequence_length
    with hollow():
        model = _model(settings, length)
    of = sized(model, settings.model, settings.optimizer, length, settings.update.get("ema_decay"))
    precision = _precision(settings, hardware)
    rows = _rows(settings, layout)
    room = int(settings.plan.memory_share * hardware.memory_bytes)

    def taken(micro_batch: int) -> Memory:
        sizes = (micro_batch * length, DTYPES[precision].itemsize)
        several = micro_batch < rows
        return memory(of, *sizes, hardware.device, layout, hardware.context_bytes, accumulates=several)

    fitting = largest_micro_batch(rows, lambda size: peak(taken(size))[1] <= room)
    asked = settings.trainer.micro_batch
    micro_batch = asked if isinstance(asked, int) else fitting or 1
    moment, most = peak(taken(micro_batch))
    document: dict[str, Any] = {
        "model": choices["model"],
        "parameters": {"total": of.parameters, "components": components(model)},
        "hardware": {"name": choices["hardware"], "memory_bytes": hardware.memory_bytes, "may_fill": room},
        "layout": {"ranks": layout.ranks, "replicas": layout.replicas, "shards": layout.shards}
        | {"tensor": layout.tensor, "activations": layout.activations},
        "precision": precision,
        "sequence_length": length,
        "micro_batch": {"planned": micro_batch, "largest": fitting, "rows": rows},
        "memory": {"moments": taken(micro_batch), "peak": most, "peak_at": moment, "fits": most <= room},
    }
    document |= _time(settings, model, of, layout, hardware, precision)
    document["checkpoints"] = _checkpoints(settings, of)
    if settings.plan.dry_run:
        # It brings PyTorch's compiler, which takes a second, and memory that is counted above.
        from pretrain.training.dry_run import dry_run

        document["dry_run"] = dry_run(partial(_model, settings, length), layout, DTYPES[precision])
    return document


def show(results: list[dict[str, Any]]) -> None:
    """Print each plan as tables."""
    for document in results:
        _show(document)


def _model(settings: PlanConfig, length: int) -> LanguageModel:
    vocab_size = settings.model.get("vocab_size") or VOCAB_SIZE
    special_ids = 0
    if settings.objective:
        objective = build(settings.objective, end_of_text=0, separator=vocab_size, sequence_length=length)
        special_ids = objective.special_ids
    return build_model(settings.model, vocab_size, special_ids)


def _precision(settings: PlanConfig, hardware: Hardware) -> str:
    if settings.precision == "auto" and hardware.device == "cuda":
        return "bf16"  # every GPU in configs/hardware has it
    return chosen_precision(settings.precision, torch.device(hardware.device))


def _rows(settings: PlanConfig, layout: Layout) -> int:
    """Rows of a batch on one rank."""
    rows = settings.trainer.batch_tokens // settings.sequence_length
    if rows % layout.readers:
        nearest = -(-rows // layout.readers) * layout.readers * settings.sequence_length
        raise ConfigError(
            f"the {rows} rows of a batch cannot be shared among {layout.readers} ranks; "
            f"try trainer.batch_tokens={nearest}"
        )
    return rows // layout.readers


def _time(
    settings: PlanConfig, model: LanguageModel, of: Footprint, layout: Layout, hardware: Hardware, precision: str
) -> dict[str, Any]:
    """FLOPs, seconds of a step, tokens and hours."""
    trainer = settings.trainer
    flops = training_flops(model, settings.sequence_length)
    speed, bandwidth = hardware.speed(DTYPES[precision]), hardware.bandwidth()
    products, update = step_seconds(of, flops * trainer.batch_tokens, hardware.mfu * speed, bandwidth, layout)
    seconds = products + update
    limits = [trainer.max_tokens, trainer.max_steps and trainer.max_steps * trainer.batch_tokens]
    planned = min((limit for limit in limits if limit), default=None)
    optimal = OPTIMAL_TOKENS_PER_PARAMETER * of.parameters
    return {
        "flops": {"per_token": flops, "per_step": flops * trainer.batch_tokens},
        "speed": {
            "flops_per_second": speed,
            "bytes_per_second": bandwidth,
            "mfu": hardware.mfu,
            "step_seconds": seconds,
            "of_them_update": update,
            "tokens_per_second": trainer.batch_tokens / seconds,
        },
        "tokens": {
            name: None if tokens is None else _run_of(tokens, trainer.batch_tokens, seconds, flops)
            for name, tokens in {"planned": planned, "compute_optimal": optimal}.items()
        },
    }


def _run_of(tokens: int, batch_tokens: int, seconds: float, flops: int) -> dict[str, Any]:
    steps = -(-tokens // batch_tokens)
    return {"tokens": tokens, "steps": steps, "flops": flops * tokens, "hours": steps * seconds / 3600}


def _checkpoints(settings: PlanConfig, of: Footprint) -> dict[str, Any]:
    size, disk = checkpoint_bytes(of), settings.plan.disk_bytes
    at_once = checkpoints_at_once(settings.trainer.keep_checkpoints)
    fit = None if disk is None else disk // size
    return {"bytes": size, "disk_bytes": disk, "fit": fit, "needed": at_once, "needed_bytes": at_once * size}


def _show(document: dict[str, Any]) -> None:
    total = document["parameters"]["total"]
    rows = [
        [name.replace("_", " "), f"{n:,}", share(n, total)] for name, n in document["parameters"]["components"].items()
    ]
    show_table(
        f"{document['model']}: parameters", ["component", "parameters", "share"], [*rows, ["total", f"{total:,}", ""]]
    )
    size, taken, ranks = document["micro_batch"], document["memory"], document["layout"]["ranks"]
    moments = taken["moments"]
    parts = [part for part in moments["loss"] if any(of[part] for of in moments.values())]
    rows = [[part, *(byte_size(moments[moment][part]) for moment in MOMENTS)] for part in parts]
    rows.append(["together", *(byte_size(sum(moments[moment].values())) for moment in MOMENTS)])
    title = (
        f"Memory of {document['hardware']['name']}{f', each of {ranks:,},' if ranks > 1 else ''} "
        f"in {document['precision']}, with {size['planned']:,} x {document['sequence_length']:,} tokens at once"
    )
    show_table(title, ["part", *MOMENTS.values()], rows)
    if "dry_run" in document:
        ran = document["dry_run"]
        rows = [[name, f"{of['times']:,}", byte_size(of["bytes"])] for name, of in ran["exchanges"].items()]
        show_table(f"One of {ranks:,} ranks, a micro-batch", ["exchange of whole blocks", "times", "in all"], rows)
    show_table("The run", ["", "tokens", "steps", "FLOPs", "time"], _runs(document))
    for line in _said(document):
        print(line)


def _runs(document: dict[str, Any]) -> list[list[str]]:
    names = {"planned": "as the settings say", "compute_optimal": "compute-optimal"}
    rows = []
    for name, found in document["tokens"].items():
        if found:
            time = f"{found['hours']:,.1f} h" if found["hours"] >= 1 else duration(3600 * found["hours"])
            rows.append([names[name], f"{found['tokens']:,}", f"{found['steps']:,}", f"{found['flops']:.3g}", time])
    return rows


def _said(document: dict[str, Any]) -> list[str]:
    """What the tables do not hold, a sentence each."""
    size, taken, speed, disk = (document[name] for name in ("micro_batch", "memory", "speed", "checkpoints"))
    room = document["hardware"]["may_fill"]
    said = []
    if "dry_run" in document:
        said.append(f"Gone through without values: a rank keeps {document['dry_run']['parameters']:,} parameters.")
    if size["largest"]:
        said.append(f"Largest micro-batch that fits: {size['largest']:,} of a rank's {size['rows']:,} rows a step.")
    if not taken["fits"]:
        said.append(
            f"It does not fit: {byte_size(taken['peak'])} of {byte_size(room)}; try "
            + (f"trainer.micro_batch={size['largest']}" if size["largest"] else "a shorter trainer.sequence_length")
            + ", more shards (parallel=fsdp plan.ranks=...), or optimizer=lion"
        )
    said += [
        f"{document['flops']['per_token']:,} FLOPs a token, {document['flops']['per_step']:.3g} a step; at an MFU of "
        f"{speed['mfu']:.0%} of {speed['flops_per_second'] / 1e12:,.4g} TFLOP/s a step takes "
        f"{speed['step_seconds']:.3g} s ({speed['of_them_update']:.2g} s of it the update): "
        f"{speed['tokens_per_second']:,.0f} tokens/s.",
        f"Compute-optimal: {OPTIMAL_TOKENS_PER_PARAMETER} tokens a parameter (https://arxiv.org/abs/2203.15556).",
        f"A checkpoint is {byte_size(disk['bytes'])}; up to {disk['needed']} lie on the disk at once, "
        f"{byte_size(disk['needed_bytes'])}."
        + ("" if disk["fit"] is None else f" {byte_size(disk['disk_bytes'])} hold {disk['fit']:,}."),
    ]
    return said
