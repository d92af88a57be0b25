"""An architecture in numbers: parameters by component, FLOPs a token, and what the backward pass keeps.

Everything is read from the modules and the shapes of their parameters, so that a model needs no values: see hollow().

Shapes: T tokens of a row, C width, H heads, V ids.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import nn
from torch.overrides import TorchFunctionMode

from pretrain.errors import ConfigError
from pretrain.inspection.view import Table, token_tables
from pretrain.models.attending import EXPLICIT_UP_TO, Attend
from pretrain.models.experts import Experts
from pretrain.models.language_model import LanguageModel
from pretrain.models.ngram import NGram
from pretrain.models.ngram_trie import NGramTrie
from pretrain.models.rms_norm import RMSNorm

# What a part of a parameter's name says of the component that it belongs to; the first that fits.
COMPONENTS: list[tuple[str, Callable[[str], bool]]] = [
    ("norm", lambda part: part.endswith("norm")),
    ("embedding", lambda part: "embedding" in part),
    ("attention", lambda part: "attention" in part or part.startswith(("query", "key"))),
    ("feed_forward", lambda part: part in ("feed_forward", "experts")),
    ("recurrent", lambda part: part.startswith("recurren")),
]
ORDER = ["embedding", "attention", "feed_forward", "recurrent", "norm", "head"]  # of the components in a table
TRAINING = 3  # times the forward pass: the backward pass takes the products twice, for inputs and for weights
RECURRENT = {nn.RNN: 1, nn.GRU: 7, nn.LSTM: 16}  # numbers that torch keeps of each token and unit of a layer
LEAVES_AT_ONCE = 2**20


class ParametersView:
    """Parameters by component, FLOPs a token and activation memory of a model, chosen or of a run.

    Args:
        sequence_length: tokens of a row; null: the model's context_length, else 256.
        rows: rows computed at once.
    """

    needs: ClassVar[str] = "model"

    def __init__(self, *, sequence_length: Annotated[int, Ge(1)] | None, rows: Annotated[int, Ge(1)]) -> None:
        self.sequence_length = sequence_length
        self.rows = rows

    def __call__(self, model: LanguageModel, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A JSON document: {view, total, components, shares, sequence_length, flops_per_token, activations}.

        Args:
            settings: the model's, of which n_head is looked at.

        Raises:
            ConfigError: the model counts, and has not counted anything.
        """
        found = components(model)
        total = sum(found.values())
        if not total:
            raise ConfigError("this model has no parameters before it has counted a text; name a run of it: run=...")
        length = self.sequence_length or model.context_length or 256
        neural = any(True for _ in model.parameters())
        return {
            "view": "parameters",
            "total": total,
            "components": found,
            "shares": {name: count / total for name, count in found.items()},
            "sequence_length": length,
            "flops_per_token": _both_ways(flops_per_token(model, length)) if neural else None,
            "activations": self._activations(model, length, settings.get("n_head")) if neural else None,
        }

    def _activations(self, model: LanguageModel, length: int, n_head: int | None) -> dict[str, Any]:
        tokens = self.rows * length
        layers = saved_per_token(model, length)
        weights = attention_weights_per_token(model, length, n_head) if length <= EXPLICIT_UP_TO else 0
        return {
            "rows": self.rows,
            "layers": tokens * layers,
            "attention_weights": tokens * weights,
            "bytes": {"fp32": 4 * tokens * layers, "bf16": 2 * tokens * (layers + weights)},
        }


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it."""
    rows = [
        [_spoken(name, count), f"{count:,}", _percent(document["shares"][name])]
        for name, count in document["components"].items()
    ]
    rows.append(["total", f"{document['total']:,}", "100.0 %"])
    parameters = Table("Parameters", ["component", "parameters", "share"], rows)
    if document["flops_per_token"] is None:
        return [parameters]
    flops, kept, length = document["flops_per_token"], document["activations"], document["sequence_length"]
    rows = [
        ["matrices, 2 a weight", _flops(flops["matrices"]), _flops(TRAINING * flops["matrices"])],
        ["attention, 4 x tokens x width a layer", _flops(flops["attention"]), _flops(TRAINING * flops["attention"])],
        ["both", _flops(flops["forward"]), _flops(flops["training"])],
    ]
    speed = Table(f"FLOPs a token, in rows of {length:,}", ["", "forward", "training"], rows)
    rows = [["layers", _bytes(4 * kept["layers"]), _bytes(2 * kept["layers"])]]
    if kept["attention_weights"]:
        weights = kept["attention_weights"]
        rows += [
            ["attention weights, on a CPU", _bytes(4 * weights), _bytes(2 * weights)],
            ["both", _bytes(kept["bytes"]["fp32"]), _bytes(kept["bytes"]["bf16"])],
        ]
    title = f"About what {kept['rows']:,} x {length:,} tokens keep for the backward pass"
    return [parameters, speed, Table(title, ["", "fp32", "bf16"], rows)]


@contextmanager
def hollow() -> Iterator[None]:
    """What is built inside has shapes, but neither values nor memory, in milliseconds for any size.

    torch's own way, the meta device, imports the compiler at the first random initialisation, which takes longer than
    all else. So functions that change a tensor in place, as initialisations do, are not called.
    """
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def components(model: LanguageModel) -> dict[str, int]:
    """Parameters by component, a shared one counted once; of n-grams, those that are stored, by order.

    A parameter that no known component holds goes under the name of its own module.
    """
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[_component(name)] += parameter.numel()
    if not found:
        for part in model.modules():
            if isinstance(part, NGram) and part.parameter_count():
                orders = ngrams_by_order(part.tables.trie)
                found.update({f"{n}-grams": count for n, count in enumerate(orders, start=1)})
        rest = model.parameter_count() - found.total()
        return dict(found) | ({"other counts" if found else "counts": rest} if rest else {})
    if found and not found["head"]:
        found["head"] = 0  # it shares the embedding
    return {name: found[name] for name in sorted(found, key=lambda name: (_place(name), name))}


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _component(name: str) -> str:
    parts = name.split(".")[:-1] or name.split(".")
    if parts[0] == "output":
        return "head"
    for component, fits in COMPONENTS:
        if any(map(fits, parts)):
            return component
    last = name.split(".")[-1]
    return last if last not in ("weight", "bias") else parts[-1]


def ngrams_by_order(trie: NGramTrie) -> list[int]:
    """Stored n-grams of order 1, 2 ...; those of order 1 are the V ids."""
    counts = [trie.vocab_size, *map(len, trie.keys[2:])]
    for n in range(2, trie.order):
        width = trie.order - n
        tails = trie.tails[trie.bases[n] : trie.bases[n + 1]].reshape(-1, width)  # behind the leaves of order n
        for start in range(0, len(tails), LEAVES_AT_ONCE):
            there = (tails[start : start + LEAVES_AT_ONCE] != trie.vocab_size).sum(0)
            for longer, count in enumerate(there.tolist(), start=n):
                counts[longer] += count
    return counts


def flops_per_token(model: nn.Module, length: int) -> dict[str, int]:
    """FLOPs of the forward pass for one token of a row of `length`: {matrices, attention, forward}.

    Two for each weight that a token is multiplied with, and in each attention 4 T C, for scores and for mixing values,
    as if every token saw the whole row: appendix B of PaLM (https://arxiv.org/abs/2204.02311), without biases and
    norms. Training takes three times as many.
    """
    weights = 0
    lookups = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    for part in model.modules():
        for parameter in part.parameters(recurse=False):
            if id(parameter) in lookups or parameter.dim() < 2:
                continue
            active = part.n_active / len(part.input) if isinstance(part, Experts) else 1
            weights += int(parameter.numel() * active)
    if table := tied_table(model):
        weights += table.weight.numel()
    attention = sum(4 * length * _joined(parent) for parent in _attentions(model))
    return {"matrices": 2 * weights, "attention": attention, "forward": 2 * weights + attention}


def saved_per_token(model: nn.Module, length: int) -> int:
    """Numbers that layers keep for the backward pass for each token of a row, without dropout: an estimate.

    Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198) count 34 bytes times the width in 16 bits for a layer of
    GPT, of which dropout takes two: 16 C numbers. They are the input of each matrix and each norm with weights, the
    queries, keys and values, and what goes into an activation. Gated layers keep both halves and the activation of one,
    and normed or turned queries and keys are kept beside those that they come from.
    """
    kept = 0
    for name, part in model.named_modules():
        own = list(part.parameters(recurse=False))
        if isinstance(part, nn.Linear):
            kept += part.in_features
        elif name.endswith("norm") and own:
            kept += own[0].numel()
        elif isinstance(part, nn.RNNBase):
            kept += part.input_size + part.num_layers * part.hidden_size * RECURRENT[type(part)]
        elif name.endswith("feed_forward"):
            kept += _between(part)
    turned = not any("position" in name for name, _ in model.named_parameters())
    for parent in _attentions(model):
        matrices = [part for name, part in parent.named_children() if isinstance(part, nn.Linear) and name != "output"]
        normed = any(isinstance(part, RMSNorm) for part in parent.children())
        kept += sum(part.out_features for part in matrices) + 2 * _joined(parent) * (normed + turned)
    return kept + (table.embedding_dim if (table := tied_table(model)) else 0)  # what the head reads


def tied_table(model: nn.Module) -> nn.Embedding | None:
    """The embedding whose weights the output shares; None where it has its own."""
    tables = token_tables(model)
    return None if getattr(model, "output", None) is not None or not tables else tables[0]


def attention_weights_per_token(model: nn.Module, length: int, n_head: int | None) -> int:
    """Attention weights kept for each token where the products are written out, H T a layer."""
    return len(_attentions(model)) * (n_head or 0) * length


def _between(feed_forward: nn.Module) -> int:
    """What is kept between the two matrices of a feed-forward layer, beside their inputs."""
    if isinstance(feed_forward, Experts):
        hidden = feed_forward.input.shape[1]
        inner = feed_forward.output.shape[2]
        width = feed_forward.input.shape[2]
        # Each of a token's experts keeps its input, its activation's, that of its second matrix, and its result.
        return int(feed_forward.n_active * (2 * width + hidden + inner + (inner if hidden > inner else 0)))
    matrices = [part for part in feed_forward.children() if isinstance(part, nn.Linear)]
    if len(matrices) < 2:
        return 0
    gated = matrices[0].out_features > matrices[-1].in_features
    return matrices[0].out_features + (matrices[-1].in_features if gated else 0)


def _attentions(model: nn.Module) -> list[nn.Module]:
    """The modules that hold an Attend, which also hold the matrices around it."""
    names = [name for name, part in model.named_modules() if isinstance(part, Attend)]
    return [model.get_submodule(name.rpartition(".")[0]) for name in names]


def _joined(attention: nn.Module) -> int:
    """Width of all heads side by side, which the matrix behind them reads."""
    output = attention.output
    assert isinstance(output, nn.Linear)
    return output.in_features


def _both_ways(flops: dict[str, int]) -> dict[str, int]:
    return flops | {"training": TRAINING * flops["forward"]}


def _spoken(name: str, count: int) -> str:
    return "head (shares the embedding)" if name == "head" and not count else name.replace("_", " ")


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


def _flops(number: int) -> str:
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:,.4g} {name}"
    return f"{number:,}"


def _bytes(number: int) -> str:
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:,.4g} {name}"
    return f"{number:,} B"
