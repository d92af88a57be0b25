"""The one interface of all tokenizers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

END_OF_TEXT = "<|endoftext|>"  # the token between documents; this text inside a document is plain text


class Tokenizer(Protocol):
    """Text to token ids and back: decode(encode(x)) == x for every text.

    Attributes:
        vocab_size: ids, from 0 on.
        end_of_text: the id that separates documents.
    """

    vocab_size: int
    end_of_text: int

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, special tokens in it being plain text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, (length,) of the smallest unsigned type that holds them."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD, the end of text is nothing."""
        ...

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        ...


def dtype_of(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest type of token shards that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


class TokenizerTrainer(Protocol):
    """What a config names: settings from which, and a corpus, a tokenizer comes.

    Attributes:
        sample_bytes: UTF-8 bytes of text to learn from, at most.
    """

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]
    sample_bytes: int

    def train(self, texts: Iterable[str]) -> Tokenizer: ...

    def fingerprint(self) -> str:
        """What the tokenizer depends on beside the settings and the corpus, such as the content of a file."""
        ...
