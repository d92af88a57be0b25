"""Whom each token attends to: the weights of every attention of a model on a text (https://arxiv.org/abs/1409.0473).

What a head attends to need not be why the model says what it says (https://arxiv.org/abs/1902.10186).

Shapes: T tokens of the text, queries and S keys, H heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.inspection.view import HeatMap, Page, Picture, Subject, Table
from pretrain.models.attending import Attend

# Cells on a terminal: from which weight on they look how. What is exactly 0 is a blank that tables do not strip.
SHADES = ((0.5, "█"), (0.3, "▓"), (0.15, "▒"), (0.05, "░"), (0, "·"))
BLANK = "\u2800"
ACROSS = 16  # heads side by side on a page, at most, where layers differ in their heads
MOST_ROWS = 24  # of the table of heads
CELLS = 56  # characters of a row of cells on a terminal


class AttentionView:
    """The weights of all heads on a text, or of those of one layer, or of one head.

    Args:
        text: what the model reads, behind an end of text; empty: the first validation document.
        max_tokens: of it that are read.
        layer: the attention layer, from 0; null: all.
        head: the head, from 0; null: all.
    """

    def __init__(
        self,
        *,
        text: str,
        max_tokens: Annotated[int, Ge(2)],
        layer: Annotated[int, Ge(0)] | None,
        head: Annotated[int, Ge(0)] | None,
    ) -> None:
        self.text = text
        self.max_tokens = max_tokens
        self.layer = layer
        self.head = head

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document: {view, tokens, layers, heads: [{layer, name, head, entropy, ..., weights (T, S)}]}.

        Raises:
            ConfigError: the model has no attention, or no such layer or head.
        """
        most = min(self.max_tokens, subject.model.context_length or self.max_tokens)
        ids = subject.beginning(self.text, most)
        found = attention_weights(subject.model, ids)
        if not found:
            raise ConfigError("view=attention is for models with attention, and this one has none; see view=logits")
        layers = _chosen("layer", self.layer, len(found), "the model")
        heads = [
            {"layer": layer, "name": found[layer][0], "head": head, **_figures(weights), "weights": weights.tolist()}
            for layer in layers
            for head, weights in enumerate(found[layer][1])
            if head in _chosen("head", self.head, len(found[layer][1]), f"layer {layer}")
        ]
        tokens = [subject.label(token) for token in ids]
        return {"view": "attention", "tokens": tokens, "layers": len(found), "heads": heads}


@torch.inference_mode()
def attention_weights(model: nn.Module, tokens: list[int]) -> list[tuple[str, np.ndarray]]:
    """The name of each attention of `model`, in the order of its calls, and its weights (H, T, S) in float64."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with _recorded(model) as found:
        model(torch.tensor([tokens], device=device))
    return found


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[str, np.ndarray]]]:
    found: list[tuple[str, np.ndarray]] = []

    def record(
        module: nn.Module, arguments: tuple[Tensor | None, ...], others: dict[str, Tensor | None], _: Any
    ) -> None:
        given = dict(zip(("query", "key", "value", "mask"), arguments, strict=False)) | others
        query, key, mask = given["query"], given["key"], given.get("mask")
        assert isinstance(module, Attend)
        assert query is not None
        assert key is not None
        mask = mask.double() if mask is not None and mask.is_floating_point() else mask
        weights = module.weights(query.double(), key.double(), mask)[0]  # (H, T, S)
        found.append((names[module], weights.cpu().numpy()))

    names = {part: name.rpartition(".")[0] or "attention" for name, part in model.named_modules()}
    hooks = [
        part.register_forward_hook(record, with_kwargs=True) for part in model.modules() if isinstance(part, Attend)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _chosen(what: str, place: int | None, there: int, owner: str) -> list[int]:
    if place is None:
        return list(range(there))
    if place >= there:
        raise ConfigError(f"view.{what}={place}: {owner} has {what}s 0 to {there - 1}")
    return [place]


def _figures(weights: np.ndarray) -> dict[str, float | None]:
    """What a head does on the average: how widely it looks, and how much at itself, at the one before, at the first.

    What there is not, as where a text reads another, is null.
    """
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(1)  # (T,)
    square = weights.shape[0] == weights.shape[1]
    return {
        "entropy": float(entropy.mean()),
        "itself": float(np.diagonal(weights).mean()) if square else None,
        "previous": float(np.diagonal(weights, -1).mean()) if square and len(weights) > 1 else None,
        "first": float(weights[1:, 0].mean()) if len(weights) > 1 else None,
    }


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it: where each head looks, or where there are many each layer; and the first head."""
    heads = document["heads"]
    layers = {one["layer"]: [other for other in heads if other["layer"] == one["layer"]] for one in heads}
    if len(heads) > MOST_ROWS:
        rows = [[str(layer), own[0]["name"], *_means(own)] for layer, own in layers.items()]
    else:
        rows = [[f"{one['layer']}.{one['head']}", one["name"], *_means([one])] for one in heads]
    columns = ["layer" if len(heads) > MOST_ROWS else "head", "in", "nats", "on itself", "one before", "on the first"]
    head = heads[0]
    weights, tokens = np.array(head["weights"]), document["tokens"]
    wide = 2 if 2 * weights.shape[1] <= CELLS else 1
    names = tokens if len(tokens) == len(weights) else [str(query) for query in range(len(weights))]
    cells = [[name, _cells(row, wide)] for name, row in zip(names, weights, strict=True)]
    return [
        Table("Entropy of a head's rows, and how much of them is where, on the average", columns, rows),
        Table(f"Layer {head['layer']}, head {head['head']}: {_legend()}", ["query", "keys"], cells),
    ]


def _means(heads: list[dict[str, Any]]) -> list[str]:
    found = [[one[name] for one in heads] for name in ("entropy", "itself", "previous", "first")]
    return ["–" if None in values else f"{sum(values) / len(values):.3f}" for values in found]


def pictures(document: dict[str, Any]) -> dict[str, Picture]:
    """The first head with labels, and all of them on a page where there are several."""
    heads, tokens = document["heads"], document["tokens"]
    first = heads[0]
    found: dict[str, Picture] = {
        f"attention-layer{first['layer']}-head{first['head']}": HeatMap(
            f"Layer {first['layer']}, head {first['head']}", np.array(first["weights"]), tokens, tokens
        )
    }
    if len(heads) > 1:
        counts = {sum(other["layer"] == one["layer"] for other in heads) for one in heads}
        maps = [HeatMap(f"{one['layer']}.{one['head']}", np.array(one["weights"])) for one in heads]
        title = "Attention of all heads (layer.head); a row a query, a column a key"
        layers = {one["layer"] for one in heads}
        name = "attention-all" if len(layers) > 1 else f"attention-layer{first['layer']}"
        found[name] = Page(title, maps, counts.pop() if len(counts) == 1 else ACROSS)
    return found


def _legend() -> str:
    return " ".join(f"{shade} {least:g}" for least, shade in SHADES if least)


def _cells(row: np.ndarray, wide: int) -> str:
    """Weights as cells that are the darker the more there is."""
    shades = [next(shade for least, shade in SHADES if weight >= least) if weight else BLANK for weight in row.tolist()]
    return "".join(shade * wide for shade in shades)
