"""One token a byte. Ids: 0 is the end of text, byte b is b + 1."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from pretrain.tokenizers.tokenizer import END_OF_TEXT

FIRST_BYTE = 1


class Bytes:
    """There is nothing to choose, and nothing to learn."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    sample_bytes = 0

    def train(self, texts: Iterable[str]) -> "ByteTokenizer":
        return ByteTokenizer()

    def fingerprint(self) -> str:
        return ""


class ByteTokenizer:
    """Encodes every text, and every sequence of bytes."""

    end_of_text = 0
    vocab_size = FIRST_BYTE + 256

    def encode(self, text: str) -> list[int]:
        return self.encode_bytes(text.encode())

    def encode_bytes(self, content: bytes) -> list[int]:
        return [byte + FIRST_BYTE for byte in content]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) + np.uint16(FIRST_BYTE) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(token - FIRST_BYTE for token in ids if token != self.end_of_text)

    def save(self, path: Path) -> None:
        """Write the tokenizer.json that the library `tokenizers` reads, with the same ids."""
        vocabulary = {END_OF_TEXT: 0, **{name: byte + FIRST_BYTE for byte, name in enumerate(byte_names())}}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([END_OF_TEXT])
        backend.save(str(path))

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "ByteTokenizer | None":
        """From what a tokenizer.json holds, or None where that is another kind."""
        vocabulary = {name: byte + FIRST_BYTE for byte, name in enumerate(byte_names())}
        same = settings["model"].get("type") == "BPE" and settings["model"]["vocab"] == {END_OF_TEXT: 0, **vocabulary}
        return cls() if same and not settings["model"]["merges"] else None


def byte_names() -> list[str]:
    """The printable character by which the library `tokenizers` writes each byte, as GPT-2's vocabulary does.

    Bytes that Latin-1 prints are themselves; the others take the code points from 256 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
