"""Where a run ends: the references on its data, what it writes, and its result."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pretrain.commands.data import Prepared
from pretrain.config import TrainConfig
from pretrain.data.manifests import read_json, write_json
from pretrain.data.objectives import Objective
from pretrain.data.shards import TokenStream
from pretrain.errors import SamplingError, UsageError
from pretrain.evaluation.loss import Loss, Validation
from pretrain.evaluation.references import MOST_TRAINING_TOKENS, fit_references
from pretrain.sampling.generation import generate
from pretrain.sampling.search import Decoding
from pretrain.tokenizers.loading import load
from pretrain.tracking.console import say, warn
from pretrain.tracking.jsonl import finite
from pretrain.training.checkpoints import TrainingState
from pretrain.training.updates import Update


def references_of(
    prepared: Prepared,
    manifest: dict[str, Any],
    training: TokenStream,
    validation: TokenStream,
    objective: Objective,
) -> dict[str, Any]:
    """The references on this data, fitted once and kept beside the token shards.

    They predict the next token: with an objective that asks for something else, only the uniform one can be compared.
    """
    if not objective.in_order:
        return {"uniform": math.log(manifest["vocab_size"])}
    path = prepared.folder / "references.json"
    references: dict[str, Any] | None = read_json(path)
    if references is None:
        say("fitting the references: unigram, bigram and the best n-gram")
        sizes = {"vocab_size": manifest["vocab_size"], "end_of_text": manifest["end_of_text"]}
        references = dict(fit_references(training.array(MOST_TRAINING_TOKENS), validation.array(), **sizes))
        write_json(path, references)
    return references


def sample_of(
    settings: TrainConfig,
    update: Update,
    prepared: Prepared,
    objective: Objective,
    device: torch.device,
    max_tokens: int,
    decoding: Decoding,
    tell: Callable[[str], None] = warn,
) -> str | None:
    """What the model writes in at most `max_tokens`, prompt and all; None where it is asked for none or cannot.

    Args:
        tell: told why it cannot.
    """
    if not max_tokens:
        return None
    tokenizer = load(prepared.tokenizer)
    try:
        [continuation] = generate(
            update.working,
            objective.prompt(settings.sample.prompt, tokenizer.encode),
            n=1,
            max_tokens=max_tokens,
            decoding=decoding,
            seed=settings.seed,
            end_of_text=tokenizer.end_of_text,
            device=device,
        )
    except (SamplingError, UsageError) as error:
        # A model without smoothing stops in an unseen context, another has no room for the prompt: both are trained.
        tell(str(error))
        return None
    return objective.whole(settings.sample.prompt, tokenizer.decode(continuation.tokens))


def result_of(
    folder: Path,
    state: TrainingState,
    loss: Loss,
    measure: Validation,
    references: dict[str, Any],
    samples: list[str | None],
    parameters: int,
) -> dict[str, Any]:
    """What `train --format=json` prints, and result.json keeps.

    Args:
        samples: one, or one and a greedy one.
    """
    validation: dict[str, Any] = {
        "loss": finite(loss.mean),
        "perplexity": finite(loss.perplexity),
        "bits_per_byte": finite(measure.bits_per_byte(loss)),
        "bits_per_character": finite(measure.bits_per_character(loss)),
    }
    if loss.unseen:
        validation["unseen"] = {"targets": loss.unseen, "of": loss.tokens}
    train_loss = state.train_loss
    return {
        "run": str(folder.absolute()),
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "parameters": parameters,
        "train": {"loss": train_loss, "perplexity": None if train_loss is None else math.exp(train_loss)},
        "validation": validation,
        "references": references,
        "sample": samples[0],
        **({"greedy_sample": samples[1]} if len(samples) > 1 else {}),
    }
