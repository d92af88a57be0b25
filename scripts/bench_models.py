"""Forward and backward of every neural model against a plain writing of itself: tokens a second, as ratios.

    python scripts/bench_models.py [--only gpt ...] [--threads 2] [--rounds 7]

Plain is what one would write with PyTorch's own layers and F.cross_entropy; transformers' GPT-2 and Llama are the
second peer of those two. Both sides run in turns in one process, with the same shapes, in fp32; the figure is the
median over the rounds of the time of the peer by ours: above 1, ours is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import cli, config
from pretrain.models.language_model import IGNORED, LanguageModel
from pretrain.models.positions import sinusoids

SECONDS = 0.7  # of one side in one round
V, B, T = 4096, 16, 64
SOURCE = 32  # tokens of a sequence-to-sequence row before its separator
Step = Callable[[Tensor, Tensor], Tensor]  # tokens and targets (B, T) to a mean loss


class Plain(nn.Module):
    """A decoder of torch's own layers, in the manner of nanoGPT: GPT-2's block, or an attention alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        width = model.token_embedding.weight.shape[1]
        self.heads = model.n_head
        self.tokens, self.positions = nn.Embedding(model.vocab_size, width), nn.Embedding(model.context_length, width)
        layers = len(model.blocks) if hasattr(model, "blocks") else 1
        self.alone = not hasattr(model, "blocks")
        self.attention = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.projection = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        self.wide = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, model.vocab_size, bias=False)
        if not self.alone:
            self.head.weight = self.tokens.weight

    def attend(self, layer: int, x: Tensor) -> Tensor:
        parts = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.attention[layer](x).chunk(3, 2)]
        query, key, value = parts
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        if self.alone:
            alone: Tensor = self.head(self.attend(0, x))
            return alone
        for layer in range(len(self.attention)):
            x = x + self.projection[layer](self.attend(layer, self.norms[2 * layer](x)))
            hidden = F.gelu(self.wide[layer](self.norms[2 * layer + 1](x)), approximate="tanh")
            x = x + self.narrow[layer](hidden)
        logits: Tensor = self.head(self.norms[-1](x))
        return logits


class PlainRotary(nn.Module):
    """Llama's or modern's block of torch's own functions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        width = model.token_embedding.weight.shape[1]
        first = model.blocks[0]
        self.gated = hasattr(model, "rotary_base")
        query, key, value = first.attention.heads if self.gated else [first.attention.n_head] * 3
        self.heads, self.head_width = (query, key, value), width // query
        hidden = first.feed_forward.output.weight.shape[1]
        layers = len(model.blocks)
        self.tokens = nn.Embedding(model.vocab_size, width)
        self.attention = nn.ModuleList(
            nn.Linear(width, sum(self.heads) * self.head_width, bias=False) for _ in range(layers)
        )
        self.projection = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(
            nn.RMSNorm(width, elementwise_affine=self.gated, eps=1e-5) for _ in range(2 * layers + 1)
        )
        self.wide = nn.ModuleList(
            nn.Linear(width, hidden * (2 if self.gated else 1), bias=False) for _ in range(layers)
        )
        self.narrow = nn.ModuleList(nn.Linear(hidden, width, bias=False) for _ in range(layers))
        angles = torch.arange(model.context_length)[:, None] / 10_000 ** (
            torch.arange(0, self.head_width, 2) / self.head_width
        )
        self.cosine, self.sine = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def turned(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 3)
        length = x.shape[2]
        found: Tensor = x * self.cosine[:length] + torch.cat([-second, first], 3) * self.sine[:length]
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        for layer in range(len(self.attention)):
            heads = self.attention[layer](self.norms[2 * layer](x)).unflatten(2, (-1, self.head_width)).transpose(1, 2)
            query, key, value = heads.split(self.heads, 1)
            if not self.gated:
                query, key = F.rms_norm(query, (self.head_width,)), F.rms_norm(key, (self.head_width,))
            query, key = self.turned(query), self.turned(key)
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.gated)
            x = x + self.projection[layer](attended.transpose(1, 2).flatten(2))
            hidden = self.wide[layer](self.norms[2 * layer + 1](x))
            if self.gated:
                gate, hidden = hidden.chunk(2, 2)
                hidden = F.silu(gate) * hidden
            else:
                hidden = F.relu(hidden).square()
            x = x + self.narrow[layer](hidden)
        logits: Tensor = self.norms[-1](x) @ self.tokens.weight.T
        return logits


class PlainRecurrent(nn.Module):
    """torch's recurrent layers between an embedding and a linear map."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        layers = model.recurrence
        self.embedding = nn.Embedding(model.vocab_size, layers.input_size)
        self.layers = type(layers)(layers.input_size, layers.hidden_size, layers.num_layers, batch_first=True)
        self.narrow = nn.Linear(layers.hidden_size, layers.input_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.narrow(self.layers(self.embedding(tokens))[0]) @ self.embedding.weight.T
        return logits


class PlainMLP(nn.Module):
    """The last tokens' embeddings side by side, linear, ReLU, linear."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        width = model.embedding.weight.shape[1]
        self.seen = model.context_length
        self.embedding = nn.Embedding(model.vocab_size + 1, width)
        self.layers = nn.Sequential(
            nn.Linear(self.seen * width, model.hidden.out_features),
            nn.ReLU(),
            nn.Linear(model.hidden.out_features, model.vocab_size),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        padded = F.pad(tokens, (self.seen - 1, 0), value=V)
        windows = torch.stack([padded[:, start : start + tokens.shape[1]] for start in range(self.seen)], 2)
        logits: Tensor = self.layers(self.embedding(windows).flatten(2))
        return logits


class PlainEncoderDecoder(nn.Module):
    """torch's own nn.Transformer between an embedding and a linear map; SEP stands behind SOURCE tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        width, layers = model.token_embedding.weight.shape[1], len(model.blocks)
        self.embedding = nn.Embedding(len(model.token_embedding.weight), width)
        heads = model.blocks[0].attention.n_head
        self.inner = nn.Transformer(width, heads, layers, layers, 4 * width, dropout=0.0, batch_first=True)
        self.ids = model.vocab_size

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + sinusoids(torch.arange(tokens.shape[1]), self.embedding.embedding_dim)
        source, target = x[:, : SOURCE + 1], x[:, SOURCE:]
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        hidden = self.inner(source, target, tgt_mask=mask, tgt_is_causal=True)
        logits: Tensor = hidden @ self.embedding.weight[: self.ids].T
        return logits


def transformers_of(model: LanguageModel) -> nn.Module:
    """transformers' own model with the weights of ours."""
    import transformers

    from pretrain.exporting.huggingface import huggingface_config, to_huggingface

    shape = huggingface_config(model)
    kind = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}[shape["model_type"]]
    theirs = getattr(transformers, shape["architectures"][0])(kind(**shape))
    theirs.load_state_dict(to_huggingface(model), strict=False)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = theirs

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.inner(tokens).logits
            return logits

    return Logits()


# Name: overrides, rows, positions, peers.
CASES: dict[str, tuple[list[str], int, int, dict[str, Callable[[Any], nn.Module]]]] = {
    "gpt": (["model=gpt_nano"], B, T, {"plain": Plain, "transformers": transformers_of}),
    "gpt, 65 ids": (["model=gpt_nano", "model.vocab_size=65"], B, T, {"plain": Plain, "transformers": transformers_of}),
    "gpt, wide": (
        ["model=gpt2_small", "model.n_layer=2", "model.context_length=256"],
        4,
        256,
        {"plain": Plain, "transformers": transformers_of},
    ),
    "gpt, long": (
        ["model=gpt2_small", "model.n_layer=2"],
        1,
        1024,
        {"plain": Plain, "transformers": transformers_of},
    ),
    "llama": (["model=llama"], B, T, {"plain": PlainRotary, "transformers": transformers_of}),
    "modern": (["model=modern", "model.lookback=0"], B, T, {"plain": PlainRotary}),
    "attention": (["model=attention"], B, T, {"plain": Plain}),
    "mlp": (["model=mlp", "model.context_length=3"], B, T, {"plain": PlainMLP}),
    "rnn": (["model=rnn"], B, T, {"plain": PlainRecurrent}),
    "gru": (["model=gru"], B, T, {"plain": PlainRecurrent}),
    "lstm": (["model=lstm"], B, T, {"plain": PlainRecurrent}),
    "encoder_decoder": (["model=encoder_decoder"], B, T, {"plain": PlainEncoderDecoder}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'model':14} {'parameters':>11} {'tokens/s':>9}  ratios (at least 1)")
    for name in options.only:
        overrides, rows, length, peers = CASES[name]
        model = built(overrides)
        tokens = torch.randint(0, model.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(0))
        rows_of, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
        if name == "encoder_decoder":
            rows_of[:, SOURCE], targets[:, :SOURCE] = model.vocab_size, IGNORED
        sides: dict[str, Step] = {"ours": ours(model)}
        sides |= {peer: theirs(make(model).train()) for peer, make in peers.items()}
        seconds = timed(sides, rows_of, targets, options.rounds)
        speed = rows * length / statistics.median(seconds["ours"])
        ratios = {
            peer: statistics.median(other / own for other, own in zip(seconds[peer], seconds["ours"], strict=True))
            for peer in peers
        }
        shown = "  ".join(f"{peer} {ratio:5.2f}" for peer, ratio in ratios.items())
        print(f"{name:14} {model.parameter_count():11,} {speed:9,.0f}  {shown}", flush=True)


def built(overrides: list[str]) -> LanguageModel:
    settings = config.Part(cli._composed("train", overrides)["model"])
    vocab_size = settings["vocab_size"] or V
    model: LanguageModel = config.build(settings, vocab_size=vocab_size)
    return model.train()


def ours(model: LanguageModel) -> Step:
    return lambda tokens, targets: model.token_losses(tokens, targets)[0].mean()


def theirs(model: nn.Module) -> Step:
    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        logits = model(tokens)
        wanted = targets[:, -logits.shape[1] :]
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)

    return loss


def timed(sides: dict[str, Step], tokens: Tensor, targets: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of a forward and backward, by side and round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, step in sides.items():
            taken = [spent(step, tokens, targets) for _ in counted(SECONDS)]
            if number:  # the first round warms up
                seconds[name].append(statistics.median(taken))
    return seconds


def spent(step: Step, tokens: Tensor, targets: Tensor) -> float:
    started = time.perf_counter()
    torch.autograd.backward(step(tokens, targets))
    return time.perf_counter() - started


def counted(seconds: float) -> Iterator[None]:
    """Again and again until the time is over, three times at least."""
    started, number = time.perf_counter(), 0
    while number < 3 or time.perf_counter() - started < seconds:
        yield
        number += 1


if __name__ == "__main__":
    main()
