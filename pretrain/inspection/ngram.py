"""The n-grams of a run's training text: its most frequent tokens, what follows a context, and how n-grams thin out.

Shapes: N training tokens, V ids of the vocabulary.
"""

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval

from pretrain.inspection.view import Bars, Group, Subject, Table, visible
from pretrain.models.ngram import NGram
from pretrain.models.ngram_counts import OrderCounts, count_ngrams, distinct
from pretrain.models.ngram_trie import ABSENT, UNSEEN

BAR = 40  # characters of the longest bar
VALIDATION_AT_ONCE = 2**20  # tokens


class NGramView:
    """Counts of the training text, whatever model was trained on it.

    Args:
        context: a text; the table shows which tokens follow it, and each shorter end of it, and how often.
        n: rows of the first table, and of each context's part of the second.
        order: tokens of the longest n-gram that is counted.
    """

    def __init__(self, *, context: str, n: Annotated[int, Ge(1)], order: Annotated[int, Interval(ge=1, le=32)]) -> None:
        self.context = context
        self.n = n
        self.order = order

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document: {view, tokens, continuations, growth}."""
        stream, size = subject.training.array(), subject.tokenizer.vocab_size
        model = NGram(size, order=self.order, smoothing="none", k=1.0)
        sizes = {"vocab_size": size, "end_of_text": subject.tokenizer.end_of_text}
        counts = count_ngrams(stream, self.order, memory_bytes=model.memory_bytes, **sizes)
        model.fit_counts(counts, subject.tokenizer.end_of_text)
        return {
            "view": "ngram",
            "tokens": self._frequent(counts, subject),
            "continuations": self._continuations(model, subject),
            "growth": _growth(model, counts, subject),
        }

    def _frequent(self, counts: list[OrderCounts], subject: Subject) -> list[dict[str, Any]]:
        found = counts[0].counts
        best = np.argsort(-found, kind="stable")[: self.n]
        total = int(found.sum())
        return [
            {"token": subject.text_of(token), "id": token, "count": count, "probability": count / total}
            for token, count in zip(best.tolist(), found[best].tolist(), strict=True)
            if count
        ]

    def _continuations(self, model: NGram, subject: Subject) -> list[dict[str, Any]]:
        """For each end of the context, from the longest on: how often it occurs, and what follows it."""
        ids = [subject.tokenizer.end_of_text, *subject.tokenizer.encode(self.context)]
        tail = np.array([ids[max(0, len(ids) - self.order + 1) :]])
        found = []
        states = model.tables.contexts(tail) if self.order > 1 else []
        for n, state in reversed(list(enumerate(states, start=1))):
            if n > tail.shape[1] or state[0, -1] == ABSENT:
                continue
            _, tokens, following = model.tables.continuations(n + 1, state[:, -1])
            times = model.tables.rows(n + 1, following)[:, 0].astype(np.int64)
            best = np.argsort(-times, kind="stable")[: self.n]
            total = int(times.sum())
            found.append(
                {
                    "context": [subject.text_of(token) for token in tail[0, -n:].tolist()],
                    "count": total,
                    "followers": len(tokens),
                    "next": [
                        {"token": subject.text_of(token), "id": token, "count": count, "probability": count / total}
                        for token, count in zip(tokens[best].tolist(), times[best].tolist(), strict=True)
                    ],
                }
            )
        return found


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it."""
    return [_bars(document["tokens"]), _after(document["continuations"]), _thinning(document)]


def pictures(document: dict[str, Any]) -> dict[str, Bars]:
    """Shares of what follows the context, each shorter end of it, and anything at all."""
    found = [*document["continuations"], {"context": [], "next": document["tokens"]}]
    groups = [
        Group(
            "after " + repr(visible("".join(one["context"]))) if one["context"] else "after anything",
            [visible(row["token"]) for row in one["next"]],
            np.array([[row["probability"]] for row in one["next"]]),
            None,
        )
        for one in found
        if one["next"]
    ]
    return {"ngram": Bars("What follows in the training text", ["share"], groups)}


def _growth(model: NGram, counts: list[OrderCounts], subject: Subject) -> list[dict[str, Any]]:
    """For each n: the distinct n-grams of the training text, and how many of the validation text it does not have."""
    validation = subject.validation.array()
    unseen, of = np.zeros(model.order + 1, np.int64), np.zeros(model.order + 1, np.int64)
    for start in range(0, len(validation) - 1, VALIDATION_AT_ONCE):
        left = max(0, start - model.order)
        chunk = validation[left : start + VALIDATION_AT_ONCE + 1].astype(np.int64)[None]
        tokens, targets, new = chunk[:, :-1], chunk[:, 1:], start - left
        of[1] += targets.size - new
        unseen[1] += int((counts[0].counts[targets[0, new:]] == 0).sum())
        for n, contexts, found in model.tables.walk(tokens, targets, runs_on=True):
            there = contexts[new:] != ABSENT
            of[n] += int(there.sum())
            unseen[n] += int((found[new:][there] == UNSEEN).sum())
    return [
        {
            "n": n,
            "distinct": kinds,
            "validation": int(of[n]),
            "unseen": int(unseen[n]),
            "unseen_share": int(unseen[n]) / int(of[n]) if of[n] else None,
        }
        for n, kinds in enumerate(distinct(counts, model.vocab_size), start=1)
    ]


def _bars(tokens: list[dict[str, Any]]) -> Table:
    most = max((row["count"] for row in tokens), default=1)
    width = max((len(repr(row["token"])) for row in tokens), default=0)
    rows = [
        [
            f"{row['token']!r:<{width}}  " + "█" * max(1, round(BAR * row["count"] / most)),
            f"{row['count']:,}",
            f"{row['probability']:.4f}",
        ]
        for row in tokens
    ]
    return Table("The most frequent tokens of the training text", ["token", "count", "probability"], rows)


def _after(contexts: list[dict[str, Any]]) -> Table:
    rows = []
    for found in contexts:
        name = " ".join(repr(token) for token in found["context"])
        if not found["next"]:
            rows.append([name, "never seen", "", ""])
        for place, row in enumerate(found["next"]):
            head = f"{name}: {found['count']:,} times, {found['followers']:,} kinds" if not place else ""
            rows.append([head, repr(row["token"]), f"{row['count']:,}", f"{row['probability']:.4f}"])
    return Table("What follows the context", ["context", "next", "count", "probability"], rows)


def _thinning(document: dict[str, Any]) -> Table:
    rows = [
        [
            str(row["n"]),
            f"{row['distinct']:,}",
            f"{row['unseen']:,} of {row['validation']:,}",
            "" if row["unseen_share"] is None else f"{row['unseen_share']:.2%}",
        ]
        for row in document["growth"]
    ]
    columns = ["n", "distinct n-grams in training", "unseen in validation", "share"]
    return Table("How n-grams thin out", columns, rows)
