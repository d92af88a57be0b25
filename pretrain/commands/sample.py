"""`pretrain sample`: let a run write."""

from typing import Any

import torch

from pretrain.commands.loading import load_run
from pretrain.config import SampleConfig, build
from pretrain.data.sources.reading import mended
from pretrain.sampling.generation import generate
from pretrain.training.precision import chosen_device


def run(settings: SampleConfig) -> list[dict[str, Any]]:
    """Continue the prompt `n` times."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = chosen_device(settings.device)
    prompt, _, _ = mended(settings.prompt)  # bytes of the command line that are not UTF-8 come as lone surrogates
    loaded = load_run(settings.run, settings.step, settings.runs_dir, device, settings.precision)
    continuations = generate(
        loaded.model,
        loaded.objective.prompt(prompt, loaded.tokenizer.encode),
        n=settings.n,
        max_tokens=settings.max_tokens,
        decoding=build(settings.decoding),
        seed=settings.seed,
        end_of_text=loaded.tokenizer.end_of_text,
        device=device,
    )
    texts = [loaded.tokenizer.decode(continuation.tokens) for continuation in continuations]
    return [
        {
            "prompt": prompt,
            "text": text,
            "tokens": continuation.tokens,
            "logprob": continuation.logprob,
            "whole": loaded.objective.whole(prompt, text),
        }
        for text, continuation in zip(texts, continuations, strict=True)
    ]


def show(results: list[list[dict[str, Any]]]) -> None:
    """Print every text whole, prompt and what was written for it."""
    samples = [sample for result in results for sample in result]
    for number, sample in enumerate(samples, start=1):
        if len(samples) > 1:
            print(f"--- {number} of {len(samples)}, log-probability {sample['logprob']:.1f}")
        print(sample["whole"])
