"""What a model thinks of a text: of each token the probability, the rank and the surprise.

Surprise is -log p (Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x); its mean is the loss.

Shapes: N tokens of the text, T tokens of a row, V ids.
"""

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge
from rich.text import Text
from torch import Tensor

from pretrain.inspection.tokens import id_texts
from pretrain.inspection.view import Subject, Table
from pretrain.models.language_model import LanguageModel
from pretrain.tokenizers.tokenizer import Tokenizer

# Background of a token by its surprise in bits, from expected to astonishing: steps of a blue that grows darker, apart
# in lightness, so that nobody needs to see colours.
STEPS = ((1, "black on #deebf7"), (3, "black on #9ecae1"), (6, "white on #4292c6"), (10, "white on #2171b5"))
MOST = "white on #08306b"


class LogitsView:
    """Every token of a text under the model.

    Args:
        text: what is read, behind an end of text; empty: the first validation document.
        max_tokens: of it that are read.
    """

    def __init__(self, *, text: str, max_tokens: Annotated[int, Ge(1)]) -> None:
        self.text = text
        self.max_tokens = max_tokens

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document: {view, tokens: [{token, id, probability, rank, nats, bits, best}], loss, parts}.

        What is infinite or undefined is null: a token that a model without smoothing never saw.
        """
        ids = subject.beginning(self.text, self.max_tokens + 1)
        rows: list[dict[str, Any]] = []
        found = _row_by_row(subject.model, ids, subject.sequence_length)
        for token, (log_probability, rank, best, best_log) in zip(ids[1:], found, strict=True):
            known = math.isfinite(log_probability)
            rows.append(
                {
                    "token": subject.text_of(token),
                    "id": token,
                    "probability": None if math.isnan(log_probability) else math.exp(log_probability),
                    "rank": None if math.isnan(log_probability) else rank,
                    "nats": -log_probability if known else None,
                    "bits": -log_probability / math.log(2) if known else None,
                    "best": {"token": subject.text_of(best), "id": best, "probability": math.exp(best_log)}
                    if math.isfinite(best_log)
                    else None,
                }
            )
        nats = [row["nats"] for row in rows if row["nats"] is not None]
        return {
            "view": "logits",
            "loss": sum(nats) / len(nats) if len(nats) == len(rows) else None,
            "tokens": rows,
            "parts": _parts(subject.tokenizer, ids[1:], [row["bits"] for row in rows]),
        }


def _parts(tokenizer: Tokenizer, ids: list[int], bits: list[float | None]) -> list[dict[str, Any]]:
    """The text in pieces that can be shown: a token, or those of one character with their surprise in sum."""
    parts, place = [], 0
    for shown, own in id_texts(tokenizer, ids):
        known = [some for some in bits[place : place + len(own)] if some is not None]
        parts.append({"text": shown, "bits": sum(known) if len(known) == len(own) else None})
        place += len(own)
    return parts


@torch.inference_mode()
def _row_by_row(model: LanguageModel, ids: list[int], length: int) -> list[tuple[float, int, int, float]]:
    """Of each token but the first: log-probability, rank from 1 on, the likeliest id and its log-probability.

    Rows of `length` tokens overlap by half, as in an evaluation.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    stride = max(1, length // 2)
    found: list[tuple[float, int, int, float]] = []
    start = 0
    while len(found) < len(ids) - 1:
        row = torch.tensor([ids[start : start + length]], device=device)
        targets = torch.tensor(ids[start + 1 : start + length + 1], device=device)
        found += _judged(model(row)[0, : len(targets)].double(), targets)[len(found) - start :]
        start += stride
    return found


def _judged(logits: Tensor, targets: Tensor) -> list[tuple[float, int, int, float]]:
    """Of each target (T,) under the logits (T, V): log-probability, rank, the likeliest id and its log-probability."""
    logs = logits.log_softmax(1)
    own = logs.gather(1, targets[:, None])  # (T, 1)
    ranks = 1 + (logs > own).sum(1)
    best, ids = logs.max(1)
    return list(zip(own[:, 0].tolist(), ranks.tolist(), ids.tolist(), best.tolist(), strict=True))


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it: the text in colours, and a row a token."""
    loss = document["loss"]
    mean = "inf nats" if loss is None else f"{loss:.4f} nats ({loss / math.log(2):.4f} bits)"
    text = Text()
    for part in document["parts"]:
        text.append(part["text"].replace("\n", "⏎\n"), _colour(part["bits"]))
    rows: list[list[str | Text]] = [
        [
            repr(row["token"]),
            _number(row["probability"], 4),
            "–" if row["rank"] is None else f"{row['rank']:,}",
            _number(row["nats"], 2),
            _coloured(row["bits"]),
            "–" if row["best"] is None else f"{row['best']['token']!r} {row['best']['probability']:.2f}",
        ]
        for row in document["tokens"]
    ]
    return [
        Table(f"{mean} a token; the darker, the more surprising", ["text"], [[_legend()], [text]]),
        Table("Token by token", ["token", "probability", "rank", "nats", "bits", "likeliest"], rows),
    ]


def _legend() -> Text:
    shown = Text()
    below = 0
    for step, colour in STEPS:
        shown.append(f" {below} to {step} bits ", colour)
        below = step
    return shown.append(f" {below} and more ", MOST)


def _colour(bits: float | None) -> str:
    if bits is None:
        return MOST
    return next((colour for step, colour in STEPS if bits < step), MOST)


def _coloured(bits: float | None) -> Text:
    return Text(_number(bits, 2), _colour(bits))


def _number(value: float | None, places: int) -> str:
    return "inf" if value is None else f"{value:.{places}f}"
