"""What a model's token embeddings put near each other: neighbours, analogies, and the plane they spread most in.

Analogies are a - b + c by the cosine of unit vectors, the three left out (https://aclanthology.org/W14-1618/, after
https://aclanthology.org/N13-1090/); that they are left out helps much (https://aclanthology.org/W16-2503/).

Shapes: V ids, C width, N tokens.
"""

import re
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from pretrain.errors import ConfigError
from pretrain.inspection.view import Picture, Points, Subject, Table, token_tables

COUNTED = 10_000_000  # training tokens of which the frequent ones are found
ANALOGY = re.compile(r"(.+) - (.+) \+ (.+)", re.DOTALL)


class EmbeddingsView:
    """Neighbours and analogies of tokens, and a plane of the most frequent ones.

    Args:
        tokens: texts of one token each; none: the most frequent ones.
        analogies: of the form `a - b + c`, each a text of one token.
        n: neighbours of each.
        frequent: tokens in the plane.
    """

    def __init__(
        self,
        *,
        tokens: list[str],
        analogies: list[str],
        n: Annotated[int, Ge(1)],
        frequent: Annotated[int, Ge(3)],
    ) -> None:
        self.tokens = tokens
        self.analogies = analogies
        self.n = n
        self.frequent = frequent

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document: {view, neighbours, analogies, variance, plane}.

        Raises:
            ConfigError: the model has no embeddings, a text is not one token, or an analogy is not of its form.
        """
        found = token_tables(subject.model)
        if not found:
            raise ConfigError(
                "view=embeddings is for models with token embeddings, and this one counts; see view=ngram"
            )
        table = found[0].weight.detach()[: subject.tokenizer.vocab_size].double().cpu()  # (V, C)
        unit = F.normalize(table, dim=1)
        frequent = _most_frequent(subject, self.frequent)
        asked = [_one_token(subject, text) for text in self.tokens] or frequent[:8]
        places, variance = plane(table[frequent])
        return {
            "view": "embeddings",
            "neighbours": [
                {**_named(subject, token), "nearest": self._nearest(subject, unit, unit[token], [token])}
                for token in asked
            ],
            "analogies": [self._analogy(subject, unit, text) for text in self.analogies],
            "variance": variance,
            "plane": [
                {**_named(subject, token), "label": subject.label(token), "x": x, "y": y}
                for token, (x, y) in zip(frequent, places.tolist(), strict=True)
            ],
        }

    def _analogy(self, subject: Subject, unit: Tensor, text: str) -> dict[str, Any]:
        match = ANALOGY.fullmatch(text)
        if not match:
            raise ConfigError(f"view.analogies: {text!r} is not of the form 'a - b + c'")
        first, second, third = (_one_token(subject, part) for part in match.groups())
        place = unit[first] - unit[second] + unit[third]
        return {"analogy": text, "nearest": self._nearest(subject, unit, place, [first, second, third])}

    def _nearest(self, subject: Subject, unit: Tensor, place: Tensor, without: list[int]) -> list[dict[str, Any]]:
        cosines = unit @ F.normalize(place, dim=0)  # (V,)
        cosines[without] = -torch.inf
        best = cosines.argsort(descending=True, stable=True)[: min(self.n, len(unit) - len(set(without)))]
        return [{**_named(subject, token), "cosine": float(cosines[token])} for token in best.tolist()]


def plane(rows: Tensor) -> tuple[Tensor, list[float]]:
    """The two principal components (N, 2) of `rows` (N, C), and the share of the variance that each has.

    The sign of each is such that its largest entry among the C directions is positive, so that it is always the same.
    """
    centred = rows.double() - rows.double().mean(0)
    left, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    places = F.pad(left * sizes, (0, max(0, 2 - len(sizes))))[:, :2]
    largest = right[:2].gather(1, right[:2].abs().argmax(1, keepdim=True))[:, 0]  # (2 or 1,)
    places[:, : len(largest)] *= largest.sign()
    total = float(sizes.square().sum())
    shares = [min(1.0, float(size) ** 2 / total) if total else 0.0 for size in sizes[:2]]
    return places, shares


def _most_frequent(subject: Subject, most: int) -> list[int]:
    counts = np.bincount(subject.training.array(COUNTED), minlength=subject.tokenizer.vocab_size)
    best = np.argsort(-counts, kind="stable")[:most]
    return [token for token in best.tolist() if counts[token]]


def _one_token(subject: Subject, text: str) -> int:
    """The id of a text that is one token, alone or behind a space."""
    cuts = [subject.tokenizer.encode(form) for form in (text, f" {text}")]
    for ids in cuts:
        if len(ids) == 1:
            return ids[0]
    parts = ", ".join(repr(subject.text_of(token)) for token in cuts[0])
    raise ConfigError(f"{text!r} is no token of this run, but {len(cuts[0])}: {parts}; give one of them")


def _named(subject: Subject, token: int) -> dict[str, Any]:
    return {"token": subject.text_of(token), "id": token}


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it."""
    parts = [
        Table(
            "Nearest embeddings, by cosine",
            ["token", "nearest"],
            [[repr(row["token"]), _listed(row["nearest"])] for row in document["neighbours"]],
        )
    ]
    if document["analogies"]:
        rows = [[row["analogy"], _listed(row["nearest"])] for row in document["analogies"]]
        parts.append(Table("Analogies", ["a - b + c", "nearest"], rows))
    return parts


def pictures(document: dict[str, Any]) -> dict[str, Picture]:
    """The plane of the most frequent tokens."""
    axes = [f"component {n}: {share:.1%} of the variance" for n, share in enumerate(document["variance"], start=1)]
    axes += ["nothing"] * (2 - len(axes))
    places = np.array([[row["x"], row["y"]] for row in document["plane"]])
    title = f"The {len(places)} most frequent tokens; labels where there is room"
    labels = [row["label"] for row in document["plane"]]
    return {"embeddings": Points(title, places, labels, (axes[0], axes[1]))}


def _listed(nearest: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['token']!r} {row['cosine']:.2f}" for row in nearest)
