"""`pretrain train`: data, model, training, evaluation and a sample, one after the other, from where it stopped."""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pretrain.commands.data import Prepared
from pretrain.commands.run_folder import refuse_changes, run_folder, write_beginnings
from pretrain.commands.run_report import keep_sample, page_keeper, write_endings
from pretrain.commands.sizing import tokens_at_peak
from pretrain.commands.sweep import keep_page as keep_page
from pretrain.commands.sweep import keep_sweep as keep_sweep
from pretrain.commands.sweep import sweep_folder as sweep_folder
from pretrain.commands.train_end import references_of, result_of, sample_of
from pretrain.commands.train_start import described, first_state, limits_of, newest_checkpoint, prepared_data
from pretrain.config import Part, TrainConfig, build
from pretrain.data.batches import Batches
from pretrain.data.manifests import read_json, write_json
from pretrain.data.mixture import Share
from pretrain.data.objectives import Objective
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.errors import ConfigError, Interrupted, TrainingError
from pretrain.evaluation.loss import Loss, Validation
from pretrain.evaluation.loss import Part as Rows
from pretrain.evaluation.references import named_references
from pretrain.models.language_model import LanguageModel
from pretrain.reporting.results_table import show as show
from pretrain.reporting.run_record import beginning, look_into
from pretrain.sampling.decodings import Greedy
from pretrain.stopping import Stop
from pretrain.tokenizers.loading import load
from pretrain.tracking.console import ConsoleTracker, console, say
from pretrain.tracking.jsonl import Metrics
from pretrain.tracking.training_panel import training_panel
from pretrain.training.allocator import keep_freed_memory
from pretrain.training.checkpoints import Checkpoint, Checkpoints, TrainingState
from pretrain.training.loop import Limits, Rhythm, Tracker, train
from pretrain.training.parallel import Parallel
from pretrain.training.precision import DTYPES, chosen_device
from pretrain.training.runs import locked, read_result
from pretrain.training.updates import Update


def run(settings: TrainConfig, sweep: tuple[Path, list[str]] | None = None) -> dict[str, Any] | None:
    """Train one model to its end, from wherever its run stopped.

    Args:
        sweep: the sweep's folder and this job's own choices, which name the run's folder inside.
    Returns:
        the result, on the first of the processes that train together; None on the others.
    """
    stop = Stop().install()
    device = chosen_device(settings.device)
    parallel: Parallel = build(settings.parallel)
    with parallel.joined(device, stop):
        console.quiet = parallel.rank > 0
        result = _run(settings, sweep, parallel, device, stop)
    if sweep:
        stop.check()  # a signal that came too late for this job is meant for those behind it
    return None if parallel.rank else result


def _run(
    settings: TrainConfig,
    sweep: tuple[Path, list[str]] | None,
    parallel: Parallel,
    device: torch.device,
    stop: Stop,
) -> dict[str, Any]:
    """As run, on every process."""
    if sweep and parallel.ranks > 1:
        raise ConfigError("a sweep (-m) runs its jobs in one process each; start each job with torchrun instead")
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    prepared = prepared_data(settings, parallel, stop)
    stop = parallel.stop(stop)
    manifest = read_manifest(prepared.folder)
    training, validation = (TokenStream(prepared.folder, name, manifest) for name in ("train", "validation"))
    shares = {name: Share(part.get("weight"), part.get("max_epochs")) for name, part in settings.data.sources.items()}
    trainer, row = settings.trainer, settings.sequence_length
    objective = build_objective(settings, manifest["vocab_size"], manifest["end_of_text"])
    batches = Batches(
        training,
        row,
        settings.rows,
        settings.seed,
        shares,
        doublings=trainer.double_batch_at,
        objective=objective,
        packing=trainer.packing,
        rank=parallel.data_rank,
        ranks=parallel.data_ranks,
        workers=trainer.loader_workers,
    )
    folder = run_folder(settings, manifest["key"], sweep)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if parallel.rank == 0 else nullcontext():
        checkpoints = Checkpoints(folder, trainer.keep_checkpoints, trainer.keep_every)
        checkpoint = newest_checkpoint(checkpoints, parallel)
        if checkpoint:
            refuse_changes(settings, manifest["key"], folder)
        make_model = partial(build_model, settings.model, manifest["vocab_size"], objective.special_ids)
        state = checkpoint.state if checkpoint else first_state(settings, device, make_model, parallel)
        state.threads = torch.get_num_threads()
        update = _update(settings, manifest, batches, state, checkpoint, parallel, device, stop)
        limits = limits_of(settings, batches, update)
        result = read_result(folder)
        if result and result["steps"] == state.step and limits.progress(state) >= 1:
            say(f"{folder} is finished")
            return result
        for stream in (training, validation):
            stream.verify()
        config = OmegaConf.to_yaml(OmegaConf.create(asdict(settings)))
        if parallel.rank == 0:
            write_beginnings(folder, config, prepared)
        stride, apart = settings.eval.stride or max(1, row // 2), trainer.packing == "documents"
        other = None if objective.in_order else objective
        mine = Rows(parallel.data_rank, parallel.data_ranks, parallel.sum)
        measure = Validation(validation, row, stride, trainer.eval_tokens, stop, apart, other, mine)
        say(described(folder, settings, update, state, device, parallel))
        decoding, show_page = build(settings.decoding), page_keeper(folder, asdict(settings))

        def look() -> None:
            most = min(settings.sample.eval_tokens, settings.sample.max_tokens)
            text = sample_of(settings, update, prepared, objective, device, most, decoding, tell=lambda _: None)
            if parallel.rank == 0:
                keep_sample(folder, state.step, text)
                show_page("running")

        try:
            loss = _train(
                folder, settings, config, prepared, update, state, limits, measure, checkpoints, look, parallel, stop
            )
        except (Interrupted, TrainingError):
            if parallel.rank == 0:
                show_page("stopped")
            raise
        loss = loss or measure.loss(update.working, whole=True)
        fitted = parallel.turn(lambda: json.dumps(references_of(prepared, manifest, training, validation, objective)))
        references = json.loads(fitted)
        samples = [
            sample_of(settings, update, prepared, objective, device, settings.sample.max_tokens, by)
            for by in (decoding, Greedy())[: 2 if settings.sample.greedy else 1]
        ]
        parameters = parallel.parameter_count(update.model)
        result = result_of(folder, state, loss, measure, references, samples, parameters)
        first = beginning(validation) if objective.in_order else []
        # Weights in pieces are looked into later, by `pretrain report`.
        seen = look_into(update.working, load(prepared.tokenizer), first) if parallel.ranks == 1 else None
        if parallel.rank == 0:
            write_json(folder / "references.json", references)
            write_endings(folder, asdict(settings), result, seen)
    return result


def _update(
    settings: TrainConfig,
    manifest: dict[str, Any],
    batches: Batches,
    state: TrainingState,
    checkpoint: Checkpoint | None,
    parallel: Parallel,
    device: torch.device,
    stop: Stop,
) -> Update:
    """The model with its way to learn: fresh from the seed, or as the checkpoint left it."""
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, manifest["vocab_size"], batches.objective.special_ids)
    if checkpoint:
        model.load_weights(checkpoint.weights)
    model.to(device)
    parallel.prepare(model, DTYPES[state.precision])
    parameters = parallel.parameters(model)
    update: Update = build(
        settings.update,
        model=model,
        batches=batches,
        optimizer=build(settings.optimizer, parameters=parameters),
        schedule=build(settings.schedule),
        dtype=DTYPES[state.precision],
        micro_batch=state.micro_batch,
        seed=settings.seed,
        end_of_text=manifest["end_of_text"],
        stop=stop,
        parallel=parallel,
        activation_checkpointing=settings.trainer.activation_checkpointing,
    )
    if checkpoint:
        update.load_state(parallel.share.own(checkpoint.update))
    return update


def build_objective(settings: TrainConfig, vocab_size: int, end_of_text: int) -> Objective:
    """What a config makes of rows, for a tokenizer's vocabulary."""
    objective: Objective = build(
        settings.objective,
        end_of_text=end_of_text,
        separator=vocab_size,
        sequence_length=settings.sequence_length,
    )
    return objective


def build_model(part: Part, vocab_size: int, special_ids: int = 0) -> LanguageModel:
    """The model of a config for a tokenizer's vocabulary, and for the ids behind it that an objective needs.

    Raises:
        ConfigError: the config names another vocabulary size, or too few special ids.
    """
    if part.get("vocab_size") not in (None, vocab_size):
        raise ConfigError(
            f"model.vocab_size={part['vocab_size']}, but the tokenizer has {vocab_size} ids; leave it out"
        )
    if (part.get("special_ids") or special_ids) < special_ids:
        raise ConfigError(
            f"model.special_ids={part['special_ids']}, but the objective needs {special_ids}; leave it out"
        )
    model: LanguageModel = build(part, vocab_size=vocab_size, special_ids=special_ids)
    return model


def _train(
    folder: Path,
    settings: TrainConfig,
    config: str,
    prepared: Prepared,
    update: Update,
    state: TrainingState,
    limits: Limits,
    measure: Validation,
    checkpoints: Checkpoints,
    look: Callable[[], None],
    parallel: Parallel,
    stop: Stop,
) -> Loss | None:
    first = parallel.rank == 0
    trackers: list[Tracker] = [Metrics(folder / "metrics.jsonl", state.step), ConsoleTracker()] if first else []
    if settings.tracker and first:
        trackers.append(build(settings.tracker, name=folder.name, folder=folder, settings=asdict(settings)))

    def save(last: bool) -> None:
        weights, learned, share = parallel.weights(update.model), update.state(), parallel.share
        if share.writes:
            checkpoints.save(state, weights, learned, config, prepared.tokenizer, share=share, last=last)
        parallel.turn(lambda: "")  # the last one takes longer than an exchange may

    def restore() -> TrainingState | None:
        if checkpoint := newest_checkpoint(checkpoints, parallel):
            parallel.load(update.model, checkpoint.weights)
            update.load_state(parallel.share.own(checkpoint.update))
        return checkpoint.state if checkpoint else None

    if parallel.share.writes:
        checkpoints.prepare(parallel.weights(update.model), update.state())
    lines = {"uniform": math.log(update.model.vocab_size)}
    if measure.objective is None and (known := read_json(prepared.folder / "references.json")):
        lines = named_references(known)
    fastest = tokens_at_peak(update.model, state.precision, settings.sequence_length)
    rhythm = Rhythm(settings.trainer.eval_every, settings.trainer.checkpoint_every)
    try:
        with training_panel(limits.progress(state), lines) as show_row:
            return train(
                update,
                state,
                limits,
                rhythm,
                validation=measure,
                save=save,
                restore=restore,
                trackers=trackers,
                show=show_row,
                look=look,
                stop=stop,
                same=parallel.same,
                tokens_at_peak=fastest and fastest * parallel.data_ranks,
            )
    except Exception:
        checkpoints.give_up()
        raise
    finally:
        for tracker in trackers:
            tracker.close()
        checkpoints.wait()
