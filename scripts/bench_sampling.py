"""Sampling against transformers with its cache, and against a plain loop without one: tokens a second, as ratios.

    python scripts/bench_sampling.py [--only gpt ...] [--threads 2] [--rounds 5]

All sides have the same weights and run in turns in one process, greedily and by chance: in fp32, and in bf16 where
`pretrain sample` would take it by itself on this machine. The plain loop is what one would write first: the whole text
through the model for each token. transformers stands there in the same precision and in fp32. Figures are medians over
the rounds: tokens a second of ours, and the time of a peer by ours: above 1, ours is faster. In fp32 greedy texts must
be the same on all sides.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain import cli, config
from pretrain.exporting.huggingface import huggingface_config, to_huggingface
from pretrain.models.gpt import GPT
from pretrain.sampling.decodings import Greedy, Temperature
from pretrain.sampling.generation import generate
from pretrain.sampling.search import Decoding
from pretrain.training.precision import DTYPES, chosen_precision

PROMPT = [1, 2, 3, 4]
NOWHERE = -1  # an end of text that no model writes, so that all texts have the same length

Side = Callable[[int, bool], list[list[int]]]  # rows, and whether they are drawn, to the new tokens of each

# Name: overrides, new tokens, and for each number of rows how many times faster than transformers it is to be.
CASES: dict[str, tuple[list[str], int, dict[int, float]]] = {
    "gpt": (
        ["model=gpt_nano", "model.n_layer=4", "model.n_head=4", "model.n_embd=128", "model.vocab_size=65"],
        60,
        {1: 3.5, 10: 2.5, 64: 1.0},
    ),
    "gpt2_small": (["model=gpt2_small", "model.vocab_size=50257"], 24, {1: 1.5}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'model':11} {'':4} {'rows':>4}  {'choice':6} {'tokens/s':>9}  transformers      in fp32  plain loop")
    for name, precision in itertools.product(options.only, dict.fromkeys(("fp32", by_itself()))):
        overrides, new, wanted = CASES[name]
        model = built(overrides)
        sides: dict[str, Side] = {
            "transformers": transformers_of(model, new, DTYPES[precision]),
            "in fp32": transformers_of(model, new, torch.float32),
            "ours": ours(model.to(DTYPES[precision]), new),
            "plain": plain(model, new),
        }
        for rows, least in wanted.items():
            for drawn in (False, True):
                label = f"{name:11} {precision:4} {rows:4}  {'drawn' if drawn else 'greedy'}"
                report(label, sides, rows, drawn, new, options, least, same=precision == "fp32" and not drawn)


def by_itself() -> str:
    """The precision of `pretrain sample` on this machine's CPU, where none is chosen."""
    return chosen_precision("auto", torch.device("cpu"))


def report(
    label: str,
    sides: dict[str, Side],
    rows: int,
    drawn: bool,
    new: int,
    options: argparse.Namespace,
    least: float,
    same: bool,
) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        texts = {}
        for name, side in sides.items():
            started = time.perf_counter()
            texts[name] = side(rows, drawn)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
        if same and any(text != texts["ours"] for text in texts.values()):
            raise SystemExit(f"{label}: the greedy texts differ")
    ratios = {
        name: statistics.median(other / own for other, own in zip(taken, seconds["ours"], strict=True))
        for name, taken in seconds.items()
    }
    speed = rows * new / statistics.median(seconds["ours"])
    print(
        f"{label} {speed:9,.0f}  {ratios['transformers']:5.2f} ({least} wanted)  {ratios['in fp32']:5.2f}  "
        f"{ratios['plain']:10.2f}",
        flush=True,
    )


def built(overrides: list[str]) -> GPT:
    """A model whose logits are far apart, so that greedy texts do not hang on a rounding."""
    torch.manual_seed(0)
    settings = config.Part(cli._composed("train", overrides)["model"])
    model: GPT = config.build(settings, vocab_size=settings["vocab_size"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return model.eval()


def ours(model: GPT, new: int) -> Side:
    def write(rows: int, drawn: bool) -> list[list[int]]:
        decoding: Decoding = Temperature(temperature=1.0) if drawn else Greedy()
        continuations = generate(
            model,
            PROMPT,
            n=rows,
            max_tokens=new,
            decoding=decoding,
            seed=1,
            end_of_text=NOWHERE,
            device=torch.device("cpu"),
        )
        return [continuation.tokens for continuation in continuations]

    return write


def transformers_of(model: GPT, new: int, dtype: torch.dtype) -> Side:
    """transformers' own model with our weights, and its generate with its cache."""
    import transformers

    theirs: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**huggingface_config(model)))
    theirs.load_state_dict(to_huggingface(model), strict=False)
    theirs.to(dtype).eval()

    def write(rows: int, drawn: bool) -> list[list[int]]:
        prompts = torch.tensor([PROMPT] * rows)
        written = theirs.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new,
            do_sample=drawn,
            top_k=0,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        found: list[list[int]] = written[:, len(PROMPT) :].tolist()
        return found

    return write


def plain(model: GPT, new: int) -> Side:
    """Everything so far through the model for each token."""

    @torch.no_grad()
    def write(rows: int, drawn: bool) -> list[list[int]]:
        tokens = torch.tensor([PROMPT] * rows)
        for _ in range(new):
            logits: Tensor = model(tokens[:, -model.context_length :])[:, -1]
            chosen = torch.multinomial(logits.softmax(1), 1) if drawn else logits.argmax(1, keepdim=True)
            tokens = torch.cat([tokens, chosen], dim=1)
        found: list[list[int]] = tokens[:, len(PROMPT) :].tolist()
        return found

    return write


if __name__ == "__main__":
    main()
