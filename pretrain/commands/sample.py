"""`pretrain sample`: let a run write."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretrain.commands.loading import LoadedRun, load_run
from pretrain.config import SampleConfig, build
from pretrain.data.sources.reading import mended
from pretrain.sampling.generation import generate_all
from pretrain.sampling.prompts import read_prompts
from pretrain.sampling.search import Continuation
from pretrain.sampling.text_stream import StopStrings, TextStream, finished_text
from pretrain.training.precision import chosen_device

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}  # in stop strings, where a shell makes line ends hard to type


def run(settings: SampleConfig) -> list[dict[str, Any]]:
    """Continue each prompt `n` times."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = chosen_device(settings.device)
    decoding = build(settings.decoding)
    # Bytes of the command line that are not UTF-8 come as lone surrogates.
    prompts = read_prompts(Path(settings.prompts)) if settings.prompts else [mended(settings.prompt)[0]]
    stop = [re.sub(r"\\([ntr\\])", lambda match: ESCAPES[match[1]], mended(text)[0]) for text in settings.stop]
    loaded = load_run(settings.run, settings.step, settings.runs_dir, device, settings.precision)
    write = partial(
        generate_all,
        loaded.model,
        [loaded.objective.prompt(prompt, loaded.tokenizer.encode) for prompt in prompts],
        n=settings.n,
        max_tokens=settings.max_tokens,
        decoding=decoding,
        seed=settings.seed,
        end_of_text=loaded.tokenizer.end_of_text,
        device=device,
        rows=settings.batch,
        ends=StopStrings(stop, loaded.tokenizer.decode) if stop else None,
    )
    one = settings.n == 1 and not settings.prompts and settings.format == "table"
    if settings.stream or (settings.stream is None and one and sys.stdout.isatty()):
        stream = TextStream(loaded.tokenizer.decode, stop, _show_at_once)
        before, _, behind = loaded.objective.whole(prompts[0], "\0").partition("\0")
        _show_at_once(before)
        [continuation] = write(heard=lambda text, token: stream.hear(token))
        stream.finish(cut=continuation.ended == "length")
        print(behind)
        return [_sample(loaded, prompts[0], continuation, stop) | {"streamed": True}]
    texts = [prompt for prompt in prompts for _ in range(settings.n)]
    return [_sample(loaded, prompt, continuation, stop) for prompt, continuation in zip(texts, write(), strict=True)]


def show(results: list[list[dict[str, Any]]]) -> None:
    """Print every text whole, prompt and what was written for it; one that was streamed has been shown."""
    samples = [sample for result in results for sample in result]
    for number, sample in enumerate(samples, start=1):
        if sample.get("streamed"):
            continue
        if len(samples) > 1:
            print(f"--- {number} of {len(samples)}, log-probability {sample['logprob']:.1f}")
        print(sample["whole"])


def _sample(loaded: LoadedRun, prompt: str, continuation: Continuation, stop: list[str]) -> dict[str, Any]:
    text = finished_text(loaded.tokenizer.decode(continuation.tokens), stop, cut=continuation.ended == "length")
    return {
        "prompt": prompt,
        "text": text,
        "tokens": continuation.tokens,
        "logprob": continuation.logprob,
        "logprobs": continuation.logprobs,
        "ended": continuation.ended,
        "whole": loaded.objective.whole(prompt, text),
    }


def _show_at_once(text: str) -> None:
    print(text, end="", flush=True)
