"""A tokenizer of the library `tokenizers`, whoever trained it, encoding through a table of known words where it can.

Where the library splits a text by an expression that `splitting.py` knows, and encodes each piece by itself, the ids
of a piece depend on nothing else: looked up instead of computed, they are the same, ten times as fast.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from pretrain.errors import DataError
from pretrain.tokenizers.splitting import SPLITTINGS, Splitting
from pretrain.tokenizers.tokenizer import END_OF_TEXT, dtype_of
from pretrain.tokenizers.word_cache import WordCache

PIECE = 100_000  # characters of a long text that are encoded as one
AT_ONCE = 1_000_000  # characters that are encoded at the same time
# All splittings part two words before the single space between them, and a letter from a mark behind it.
BORDER = re.compile(r"(?<=\S) (?=\S)|(?<=[^\W_])[。、！？「」『』（）]")
ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>", "[EOS]", "[SEP]")  # as vocabularies name it
PROBE = "It's a probe: 3.14159 and 2026, naïve façade\r\n\n  吾輩は猫である。カタカナ 🙂\t'S'S x_y(z)  "


class BackendTokenizer:
    """Around a `tokenizers.Tokenizer`.

    Raises:
        DataError: it has no token that ends a text.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()  # what a file may ask for, and no text shall lose its end
        backend.no_padding()
        self.backend = backend
        self.backend.encode_special_tokens = True  # a literal <|endoftext|> inside a document is plain text
        self.vocab_size = 1 + max(backend.get_vocab().values(), default=-1)  # ids may leave some out
        found = [token for name in ENDS if (token := backend.token_to_id(name)) is not None]
        if not found:
            raise DataError(f"the tokenizer has no token {END_OF_TEXT}, nor another one that ends a text")
        self.end_of_text: int = found[0]
        self._dtype = dtype_of(self.vocab_size)
        self._splitting = known_splitting(json.loads(backend.to_str()))
        self._words: WordCache | None = None
        if self._splitting:
            words = WordCache(self._splitting, self._computed, self._dtype)
            if words.encode([PROBE])[0].tolist() == self.encode(PROBE):
                self._words = words

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text; long ones are encoded in pieces, so that little is held at a time."""
        ids: list[list[np.ndarray]] = [[] for _ in texts]
        waiting: list[tuple[int, str]] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in _pieces(text) if self._splitting else [text]:
                waiting.append((number, piece))
                size += len(piece)
                if size >= AT_ONCE:
                    self._encode(waiting, ids)
                    waiting, size = [], 0
        self._encode(waiting, ids)
        return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in ids]

    def _encode(self, pieces: list[tuple[int, str]], ids: list[list[np.ndarray]]) -> None:
        """Append the ids of each piece to those of the text whose number it has."""
        texts = [piece for _, piece in pieces]
        encoded = (
            self._words.encode(texts)
            if self._words
            else [np.array(found, self._dtype) for found in self._computed(texts)]
        )
        for (number, _), found in zip(pieces, encoded, strict=True):
            ids[number].append(found)

    def _computed(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def save(self, path: Path) -> None:
        self.backend.save(str(path))


def known_splitting(settings: dict[str, Any]) -> Splitting | None:
    """The splitting that the tokenizer.json `settings` names, where nothing but it stands before the merges."""
    added = [token for token in settings["added_tokens"] if not token["special"]]
    if settings["normalizer"] or added or settings["model"]["type"] not in ("BPE", "Unigram"):
        return None
    if settings["model"].get("dropout"):
        return None
    steps = settings["pre_tokenizer"] or {"type": "none"}
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return SPLITTINGS["gpt2"]
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            *rest,
        ] if all(
            step["type"] == "ByteLevel" and not step["add_prefix_space"] and not step["use_regex"] for step in rest
        ):
            return next((known for known in SPLITTINGS.values() if known.pattern == pattern), None)
    return None


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of PIECE characters or more, whose tokens together are those of the whole.

    Where a text has no border for as long again, it is cut all the same: its tokens there may be others, its text not.
    """
    start = 0
    while len(text) - start > 2 * PIECE:
        border = BORDER.search(text, start + PIECE, start + 2 * PIECE)
        end = border.start() if border else start + 2 * PIECE
        yield text[start:end]
        start = end
    yield text[start:]
