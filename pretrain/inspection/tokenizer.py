"""A tokenizer: bytes a token by source and language, byte fallback, long tokens, a text cut by several of them."""

from collections.abc import Iterator
from typing import Annotated, Any

from annotated_types import Ge
from rich.text import Text

from pretrain.data.filters.language import UNKNOWN, detected, known_languages
from pretrain.errors import ConfigError
from pretrain.inspection.tokens import count_tokens, longest_tokens, token_texts
from pretrain.inspection.view import Subject, Table
from pretrain.tokenizers.pretrained import Pretrained

COLOURS = ("black on bright_cyan", "black on bright_yellow")  # of neighbouring tokens
TOKENS_AT_ONCE = 1_000_000


class TokenizerView:
    """How the tokenizer encodes the run's validation texts, and `text`.

    Args:
        text: cut into tokens; empty: the beginning of the first validation text.
        compare: other tokenizers, by file or name on the hub, which cut it too.
        documents: validation documents of each source that are measured, at most.
        n: long tokens that are listed.
    """

    def __init__(
        self, *, text: str, compare: list[str], documents: Annotated[int, Ge(1)], n: Annotated[int, Ge(0)]
    ) -> None:
        self.text = text
        self.compare = compare
        self.documents = documents
        self.n = n

    def __call__(self, subject: Subject) -> dict[str, Any]:
        """A JSON document: {view, vocab_size, groups, longest, text, cuts}."""
        texts = list(self._texts(subject))
        counts = count_tokens(subject.tokenizer, ((_groups(source, text), text) for source, text in texts))
        text = self.text or next((text[:200] for _, text in texts), "")
        tokenizers = {"this run": subject.tokenizer}
        tokenizers |= {path: Pretrained(path=path, revision=None).train([]) for path in self.compare}
        return {
            "view": "tokenizer",
            "vocab_size": subject.tokenizer.vocab_size,
            "groups": [{"group": name, **group.row()} for name, group in sorted(counts.groups.items())],
            "longest": [
                {"id": token, "token": shown, "count": count}
                for token, shown, count in longest_tokens(subject.tokenizer, counts.counts, self.n)
            ],
            "text": text,
            "cuts": [
                {"tokenizer": name, "parts": [{"text": part, "ids": ids} for part, ids in token_texts(one, text)]}
                for name, one in tokenizers.items()
            ],
        }

    def _texts(self, subject: Subject) -> Iterator[tuple[str, str]]:
        """The source and text of the validation documents that are looked at."""
        seen: dict[str, int] = {}
        stream = subject.validation
        sources = (shard.source for shard in stream.shards for _ in range(shard.documents))
        for source, ids in zip(sources, stream.documents(), strict=True):
            if seen.setdefault(source, 0) < self.documents:
                seen[source] += 1
                yield source, subject.tokenizer.decode(ids[:TOKENS_AT_ONCE].tolist())


def tables(document: dict[str, Any]) -> list[Table]:
    """The document as people read it."""
    cuts = [
        [cut["tokenizer"], str(sum(len(part["ids"]) for part in cut["parts"])), _coloured(cut["parts"])]
        for cut in document["cuts"]
    ]
    return [
        Table(
            f"Validation texts in tokens of {document['vocab_size']:,} ids",
            ["", "documents", "bytes", "tokens", "bytes a token", "characters a token", "parts of characters"],
            [_row(group) for group in document["groups"]],
        ),
        Table(
            "The longest tokens",
            ["token", "id", "times in validation"],
            [[repr(row["token"]), str(row["id"]), f"{row['count']:,}"] for row in document["longest"]],
        ),
        Table("One text, each token in another colour than its neighbours", ["tokenizer", "tokens", "text"], cuts),
    ]


def _groups(source: str, text: str) -> tuple[str, ...]:
    """What a document counts for: all, its source and, where CLD2 is installed, its language."""
    try:
        known_languages()
    except ConfigError:
        return "all", f"source {source}"
    language = detected(text)[0][0] if text else UNKNOWN
    return "all", f"source {source}", f"language {'not known' if language == UNKNOWN else language}"


def _row(group: dict[str, Any]) -> list[str | Text]:
    figures = [group["bytes_per_token"], group["characters_per_token"]]
    return [
        group["group"],
        *(f"{group[name]:,}" for name in ("documents", "bytes", "tokens")),
        *("–" if figure is None else f"{figure:.3f}" for figure in figures),
        "–" if group["byte_fallback"] is None else f"{group['byte_fallback']:.2%}",
    ]


def _coloured(parts: list[dict[str, Any]]) -> Text:
    """Parts in turning colours; a character of several tokens has their number behind it."""
    shown = Text()
    for place, part in enumerate(parts):
        shown.append(part["text"].replace("\n", "⏎"), COLOURS[place % len(COLOURS)])
        if len(part["ids"]) > 1:
            shown.append(f"×{len(part['ids'])}", "dim")
    return shown
