"""What a tokenizer makes of texts: how many bytes a token stands for, where it falls back to bytes, its long tokens."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pretrain.tokenizers.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


@dataclass
class Compression:
    """How some texts were encoded.

    Attributes:
        bytes: UTF-8 bytes of the texts.
        pieces: tokens that are a part of a character only.
    """

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    tokens: int = 0
    pieces: int = 0

    def row(self) -> dict[str, float | int | None]:
        """The counts and what follows from them; None where nothing was counted."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": self.bytes / self.tokens if self.tokens else None,
            "characters_per_token": self.characters / self.tokens if self.tokens else None,
            "byte_fallback": self.pieces / self.tokens if self.tokens else None,
        }


@dataclass
class TokenCounts:
    """How often each token came up, and the compression of each group of texts, such as a source or a language."""

    groups: dict[str, Compression] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)


def count_tokens(tokenizer: Tokenizer, texts: Iterable[tuple[tuple[str, ...], str]]) -> TokenCounts:
    """Encode texts, each with the groups that it belongs to."""
    found = TokenCounts()
    partial = partial_characters(tokenizer)
    for groups, text in texts:
        [ids] = tokenizer.encode_batch([text])
        found.counts.update(ids.tolist())
        for name in groups:
            group = found.groups.setdefault(name, Compression())
            group.documents += 1
            group.bytes += len(text.encode())
            group.characters += len(text)
            group.tokens += len(ids)
            group.pieces += int(partial[ids].sum())
    return found


def partial_characters(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) whether each token is a part of a character, so that it cannot be shown alone."""
    return np.array([REPLACEMENT in tokenizer.decode([token]) for token in range(tokenizer.vocab_size)], bool)


def longest_tokens(tokenizer: Tokenizer, counts: Counter[int], most: int) -> list[tuple[int, str, int]]:
    """The tokens with the most characters: id, text, and how often it came up; of equals the most frequent first."""
    texts = [(token, tokenizer.decode([token])) for token in range(tokenizer.vocab_size)]
    longest = sorted(texts, key=lambda item: (-len(item[1]), -counts[item[0]], item[0]))[:most]
    return [(token, text, counts[token]) for token, text in longest]


def token_texts(tokenizer: Tokenizer, text: str) -> list[tuple[str, list[int]]]:
    """`text` cut where its tokens end, and the ids of each part: several where tokens are parts of one character."""
    return id_texts(tokenizer, tokenizer.encode(text), joined=REPLACEMENT not in text)


def id_texts(tokenizer: Tokenizer, ids: list[int], *, joined: bool = True) -> list[tuple[str, list[int]]]:
    """The texts of `ids`, and the ids of each; where `joined`, those that are parts of one character together."""
    parts: list[tuple[str, list[int]]] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        shown = tokenizer.decode(waiting)
        if joined and shown.endswith(REPLACEMENT) and shown.count(REPLACEMENT) == 1:  # its last character is not whole
            continue
        parts.append((shown, waiting))
        waiting = []
    if waiting:
        parts.append((tokenizer.decode(waiting), waiting))
    return parts
