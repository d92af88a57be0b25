"""A whole evaluation against transformers' forward in a plain loop: targets a second, as ratios.

    python scripts/bench_eval.py [--only nano ...] [--threads 2] [--rounds 5]

The peer does what nanoGPT's evaluation does: 12 rows side by side of the context's length, all logits, cross-entropy,
in fp32 as on its CPU. Ours is what `pretrain eval` does, ranks and all: each target sees at least half of the context,
for which every token is read twice; `side by side` reads it once, as the peer does. Both run in turns in one process;
with one thread, the time is the CPU's, which others on the machine change less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from pretrain.evaluation.loss import stream_loss
from pretrain.evaluation.scoring import Text, scored
from pretrain.exporting.huggingface import huggingface_config, to_huggingface
from pretrain.models.gpt import GPT
from pretrain.stopping import Stop
from pretrain.training.allocator import keep_freed_memory

PEER_ROWS = 12
# vocabulary, context, layers, heads, width, targets of an evaluation
SIZES = {
    "nano": (65, 64, 4, 4, 128, 32_768),
    "nano, 4,096 ids": (4096, 64, 4, 4, 128, 16_384),
    "gpt2_small": (50_257, 1024, 12, 12, 768, 2_048),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {options.threads} threads, bf16 in hardware: {in_hardware()}")
    for name in options.only:
        bench(name, options.rounds)


def in_hardware() -> bool:
    """Whether this CPU multiplies bf16 itself."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def bench(name: str, rounds: int) -> None:
    """Print what each way of ours takes, as a ratio to the peer's time."""
    vocab_size, context, n_layer, n_head, n_embd, targets = SIZES[name]
    torch.manual_seed(0)
    ours, halved = (
        GPT(vocab_size, context_length=context, n_layer=n_layer, n_head=n_head, n_embd=n_embd, dropout=0.0).eval()
        for _ in range(2)
    )
    settings = huggingface_config(ours)
    settings |= {"bos_token_id": 0, "eos_token_id": 0}
    peer = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()  # type: ignore[no-untyped-call]
    peer.load_state_dict(to_huggingface(ours), strict=False)
    text = Text(np.random.default_rng(0).integers(0, vocab_size, targets + 1))
    halved.load_state_dict(ours.state_dict())
    halved.to(torch.bfloat16)
    ways: dict[str, Callable[[], float]] = {
        "peer": lambda: peer_loss(peer, text, context),
        "fp32, side by side": lambda: loss(ours, text, context, context),
        "fp32": lambda: loss(ours, text, context, context // 2),
        "bf16, side by side": lambda: loss(halved, text, context, context),
        "bf16": lambda: loss(halved, text, context, context // 2),
        "bf16, the loss alone": lambda: loss_alone(halved, text, context, context // 2),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(rounds + 1):
        for way, run in ways.items():
            clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
            started = clock()
            found = run()
            if round:
                seconds[way].append(clock() - started)
            elif abs(found - ways["peer"]()) > 0.05:
                raise SystemExit(f"{name}, {way}: a loss of {found}")
    print(f"{name}: {sum(p.numel() for p in ours.parameters()):,} parameters, {targets:,} targets")
    for way, taken in seconds.items():
        ratios = [before / own for before, own in zip(seconds["peer"], taken, strict=True)]
        rate = targets / statistics.median(taken)
        print(f"  {way:22} {rate:10,.0f} targets/s, {statistics.median(ratios):5.2f} times the peer")


def loss(model: GPT, text: Text, row: int, stride: int) -> float:
    """Nats per token by the program's evaluation, with ranks."""
    found = list(scored(model, text, row=row, stride=stride, stop=Stop()))
    return float(np.concatenate([part.nats for part in found]).mean())


def loss_alone(model: GPT, text: Text, row: int, stride: int) -> float:
    """Nats per token by what a training run calls at its end."""
    return stream_loss(model, text, row=row, stride=stride, stop=Stop()).mean  # type: ignore[arg-type]  # it has rows


@torch.no_grad()
def peer_loss(model: torch.nn.Module, text: Text, row: int) -> float:
    """Nats per token of rows side by side, by a plain loop."""
    starts, total, count = np.arange(0, len(text) - row, row), 0.0, 0
    for first in range(0, len(starts), PEER_ROWS):
        rows = torch.from_numpy(text.rows(starts[first : first + PEER_ROWS], row + 1))
        logits = model(rows[:, :-1]).logits
        total += float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())) * rows[:, 1:].numel()
        count += rows[:, 1:].numel()
    return total / count


if __name__ == "__main__":
    main()
