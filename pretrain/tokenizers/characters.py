"""One character, one token; a character that was not in the training text becomes its UTF-8 bytes.

Ids: 0 is the end of text, 1 to 256 are the bytes, then come the characters by code point. With the 3,807 characters of
a thousand pages of Japanese Wikipedia that makes 4,064.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tokenizers
from annotated_types import Ge
from tokenizers import decoders, models

from pretrain.tokenizers.spans import code_points
from pretrain.tokenizers.tokenizer import END_OF_TEXT, dtype_of

FIRST_BYTE = 1
FIRST_CHARACTER = FIRST_BYTE + 256
UNICODE = 0x110000


class Characters:
    """How to choose the characters.

    Args:
        min_count: how often a character must occur in the sample to become a token.
        sample_bytes: UTF-8 bytes of text that are looked at, at most.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, min_count: Annotated[int, Ge(1)], sample_bytes: Annotated[int, Ge(0)]) -> None:
        self.min_count = min_count
        self.sample_bytes = sample_bytes

    def train(self, texts: Iterable[str]) -> "CharacterTokenizer":
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return CharacterTokenizer(sorted(char for char, count in counts.items() if count >= self.min_count))

    def fingerprint(self) -> str:
        return ""


class CharacterTokenizer:
    """Args:
    characters: each a token, ascending by code point.
    """

    end_of_text = 0

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = characters
        self.vocab_size = FIRST_CHARACTER + len(characters)
        self._bytes = [b"", *(bytes([byte]) for byte in range(256)), *(char.encode() for char in characters)]
        self._ids = np.zeros(UNICODE, dtype_of(self.vocab_size))  # of each code point; 0 where it is no token
        points = np.array([ord(character) for character in characters], np.int64)
        self._ids[points] = np.arange(FIRST_CHARACTER, self.vocab_size)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text."""
        if not texts:
            return []
        points, borders = code_points(texts)
        ids = self._ids[points]
        unknown = np.flatnonzero(ids == 0)
        if len(unknown):
            content = "".join(map(chr, points[unknown].tolist())).encode()
            lengths = np.ones(len(points), np.int64)
            lengths[unknown] += (points[unknown, None] >= [0x80, 0x800, 0x10000]).sum(axis=1)
            ids = np.repeat(ids, lengths)
            ids[ids == 0] = np.frombuffer(content, np.uint8).astype(ids.dtype) + FIRST_BYTE
            borders = np.append(0, np.cumsum(lengths))[borders]
        return np.split(ids, borders[1:-1])

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join([self._bytes[token] for token in ids])

    def save(self, path: Path) -> None:
        """Write the tokenizer.json that the library `tokenizers` reads, with the same ids."""
        names = [END_OF_TEXT, *(f"<0x{byte:02X}>" for byte in range(256)), *self.characters]
        vocabulary = {name: token for token, name in enumerate(names)}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        backend.add_special_tokens([END_OF_TEXT])
        backend.save(str(path))

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "CharacterTokenizer | None":
        """From what a tokenizer.json holds, or None where that is another kind."""
        model = settings["model"]
        if model.get("type") != "BPE" or model["merges"] or not model["byte_fallback"] or settings["pre_tokenizer"]:
            return None
        names = sorted(model["vocab"], key=model["vocab"].__getitem__)
        tokenizer = cls(names[FIRST_CHARACTER:])
        same = names[0] == END_OF_TEXT and names[FIRST_BYTE] == "<0x00>" and len(names) == tokenizer.vocab_size
        return tokenizer if same else None
