"""A stand-in for nanoGPT (https://github.com/karpathy/nanoGPT): its model, batches, optimizer and schedule in PyTorch.

    python scripts/nanogpt.py tinyshakespeare.txt out.pt [--steps 2000] [--best]

Trains on characters with the settings that nanoGPT's README gives for a CPU, and saves weights and characters. A
process of its own, so that a benchmark can time all that a user waits for. `--best` takes what makes it fastest without
a change to the model: "medium" products, bf16 under autocast, and attention written out, not by the kernel.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """What train_shakespeare_char.py is told on the README's command line for a CPU, and what it has itself."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    context: int = 64
    rows: int = 12  # computed at once
    accumulate: int = 1  # of them a step
    dropout: float = 0.0
    steps: int = 2000
    lr: float = 1e-3
    least_lr: float = 1e-4
    warmup_steps: int = 100
    beta2: float = 0.99
    eval_every: int = 250
    eval_batches: int = 20


# config/train_shakespeare_char.py as it is, for a GPU: its README ends at a validation loss of 1.4697.
BABY = Recipe(6, 6, 384, context=256, rows=64, dropout=0.2, steps=5000, eval_batches=200)
# config/train_gpt2.py on one GPU: 0.5 M tokens a step.
GPT2 = Recipe(12, 12, 768, context=1024, accumulate=40, lr=6e-4, least_lr=6e-5, beta2=0.95)


class GPT(nn.Module):
    """GPT-2 without biases, its output tied to its embedding, as nanoGPT's model.py has it.

    Args:
        flash: attention by PyTorch's kernel, else written out with a mask.
    """

    def __init__(self, vocab_size: int, recipe: Recipe, flash: bool = True) -> None:
        super().__init__()
        width, self.recipe, self.flash = recipe.n_embd, recipe, flash
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(recipe.context, width)
        self.blocks = nn.ModuleList(Block(recipe, flash) for _ in range(recipe.n_layer))
        self.drop, self.norm = nn.Dropout(recipe.dropout), nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = math.sqrt(2 * recipe.n_layer) if name.endswith("projection.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.drop(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class Block(nn.Module):
    def __init__(self, recipe: Recipe, flash: bool) -> None:
        super().__init__()
        width, self.heads, self.dropout, self.flash = recipe.n_embd, recipe.n_head, recipe.dropout, flash
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention = nn.Linear(width, 3 * width, bias=False)
        self.attention_projection = nn.Linear(width, width, bias=False)
        self.mlp = nn.Linear(width, 4 * width, bias=False)
        self.mlp_projection = nn.Linear(4 * width, width, bias=False)
        mask = torch.ones(recipe.context, recipe.context, dtype=torch.bool).tril()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attention(self.attention_norm(x)).chunk(3, 2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        if self.flash:
            y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        else:
            scores = query @ key.transpose(2, 3) / math.sqrt(key.shape[3])
            mask: Any = self.mask
            scores = scores.masked_fill(~mask[: x.shape[1], : x.shape[1]], -math.inf)
            y = F.dropout(scores.softmax(3), dropout) @ value
        x = x + F.dropout(self.attention_projection(y.transpose(1, 2).flatten(2)), dropout)
        hidden = self.mlp_projection(F.gelu(self.mlp(self.mlp_norm(x))))
        added: Tensor = x + F.dropout(hidden, dropout)
        return added


def loss_of(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """As nanoGPT computes it: all logits, then F.cross_entropy."""
    logits = model(tokens)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def optimizer_of(model: nn.Module, lr: float, beta2: float) -> torch.optim.Optimizer:
    """AdamW with a decay of 0.1 on matrices, fused on a GPU only, as nanoGPT's configure_optimizers makes it."""
    parameters = list(model.parameters())
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": 0.1},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    fused = {"fused": True} if parameters[0].device.type == "cuda" else {}
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2), **fused)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, micros: list[tuple[Tensor, Tensor]], cast: bool) -> float:
    """Forward and backward of each part of the batch, clip, move; the last part's loss."""
    for tokens, targets in micros:
        with autocast(tokens, cast):
            loss = loss_of(model, tokens, targets) / len(micros)
        torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach()) * len(micros)


def autocast(tokens: Tensor, cast: bool) -> AbstractContextManager[Any]:
    """bf16 products where `cast`."""
    return torch.autocast(tokens.device.type, torch.bfloat16) if cast else nullcontext()


def lr_at(step: int, recipe: Recipe) -> float:
    """nanoGPT's get_lr: a linear warm-up, then a cosine down to the least."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / (recipe.warmup_steps + 1)
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.least_lr + 0.5 * (1 + math.cos(math.pi * done)) * (recipe.lr - recipe.least_lr)


def batches(ids: Tensor, recipe: Recipe, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows from random places, for ever."""
    while True:
        places = torch.randint(len(ids) - recipe.context, (recipe.rows, 1)) + torch.arange(recipe.context)
        yield ids[places].to(device), ids[places + 1].to(device)


def characters_of(text: str) -> tuple[str, Tensor, Tensor]:
    """All characters in their order, and the ids of the first 90 % and of the last 10 % of the text."""
    characters = "".join(sorted(set(text)))
    places = {character: place for place, character in enumerate(characters)}
    ids = torch.tensor([places[character] for character in text])
    border = int(0.9 * len(ids))
    return characters, ids[:border], ids[border:]


def train(
    training: Tensor,
    validation: Tensor,
    vocab_size: int,
    recipe: Recipe,
    *,
    seed: int,
    best: bool,
    device: torch.device,
    compiled: bool = False,
) -> Iterator[tuple[int, float, GPT]]:
    """Train on ids.

    Yields:
        at each evaluation: steps, the loss on some batches of validation, and the model.
    """
    torch.manual_seed(seed)
    sides = [batches(part, recipe, device) for part in (training, validation)]
    model = GPT(vocab_size, recipe, flash=not (best and device.type == "cpu")).to(device)
    optimizer = optimizer_of(model, recipe.lr, recipe.beta2)
    run: Any = torch.compile(model) if compiled else model
    for number in range(recipe.steps + 1):
        if number % recipe.eval_every == 0 or number == recipe.steps:
            yield number, estimate(run, sides, recipe.eval_batches, best), model
        if number < recipe.steps:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(number, recipe)
            step(run, optimizer, [next(sides[0]) for _ in range(recipe.accumulate)], best)


@torch.no_grad()
def estimate(model: nn.Module, sides: list[Iterator[tuple[Tensor, Tensor]]], count: int, cast: bool) -> float:
    """The mean loss on some batches of both splits, as estimate_loss; that of the second."""
    model.eval()
    loss = 0.0
    for side in sides:
        losses = []
        for _ in range(count):
            tokens, targets = next(side)
            with autocast(tokens, cast):
                losses.append(float(loss_of(model, tokens, targets)))
        loss = sum(losses) / count
    model.train()
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--best", action="store_true")
    options = parser.parse_args()
    if options.best:
        torch.set_float32_matmul_precision("medium")
    recipe, cpu = Recipe(steps=options.steps), torch.device("cpu")
    characters, training, validation = characters_of(options.text.read_text("utf-8"))
    ids = len(characters)
    for number, loss, model in train(
        training, validation, ids, recipe, seed=options.seed, best=options.best, device=cpu
    ):
        print(f"step {number}: validation loss {loss:.4f}", flush=True)
        torch.save({"model": model.state_dict(), "characters": characters, "recipe": asdict(recipe)}, options.out)


if __name__ == "__main__":
    main()
