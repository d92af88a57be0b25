"""Byte-level byte-pair encoding, trained and run by the library `tokenizers`.

Every byte is a token before the first merge, so every text can be encoded (Radford et al. 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tokenizers
from annotated_types import Ge, Interval
from tokenizers import decoders, models, pre_tokenizers, trainers

from pretrain.errors import DataError
from pretrain.tokenizers.tokenizer import END_OF_TEXT

BYTES = 256
PIECE = 100_000  # characters of a long text that are encoded as one
AT_ONCE = 1_000_000  # characters that are encoded at the same time
LONG_RUN = re.compile(r"(\S{1000})(?=\S)")  # the trainer takes the square of its length for a word
# GPT-2's pattern always splits before a single space between two words, and between a letter and a mark behind it.
BORDER = re.compile(r"(?<=\S) (?=\S)|(?<=[^\W_])[。、！？「」『』（）]")


class BytePairEncoding:
    """How to train one: the settings that a config chooses.

    Args:
        vocab_size: ids: the end of text, 256 bytes, and merges; 257 makes every byte a token.
        sample_bytes: UTF-8 bytes of text to learn merges from, at most.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("tokenizers",)

    def __init__(
        self, *, vocab_size: Annotated[int, Interval(ge=257, le=2**24)], sample_bytes: Annotated[int, Ge(0)]
    ) -> None:
        self.vocab_size = vocab_size
        self.sample_bytes = sample_bytes

    def train(self, texts: Iterable[str]) -> "BytePairTokenizer":
        """Learn merges from `texts`; a small corpus may hold fewer than asked for."""
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator((LONG_RUN.sub(r"\1\n", text) for text in texts), trainer)
        return BytePairTokenizer(backend)


class BytePairTokenizer:
    """A trained one, around a `tokenizers.Tokenizer`; id 0 is the end of text."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.backend.encode_special_tokens = True  # a literal <|endoftext|> inside a document is plain text
        self.vocab_size: int = backend.get_vocab_size()
        end_of_text = backend.token_to_id(END_OF_TEXT)
        if end_of_text is None:
            raise DataError(f"the tokenizer has no token {END_OF_TEXT}")
        self.end_of_text: int = end_of_text
        self._dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text; long ones are encoded in pieces, so that the library holds little at a time."""
        ids: list[list[np.ndarray]] = [[] for _ in texts]
        waiting: list[tuple[int, str]] = []
        size = 0
        for number, text in enumerate(texts):
            for piece in _pieces(text):
                waiting.append((number, piece))
                size += len(piece)
                if size >= AT_ONCE:
                    self._encode(waiting, ids)
                    waiting, size = [], 0
        self._encode(waiting, ids)
        return [np.concatenate(parts) for parts in ids]

    def _encode(self, pieces: list[tuple[int, str]], ids: list[list[np.ndarray]]) -> None:
        """Append the ids of each piece to those of the text whose number it has."""
        encoded = self.backend.encode_batch_fast([piece for _, piece in pieces])
        for (number, _), encoding in zip(pieces, encoded, strict=True):
            ids[number].append(np.array(encoding.ids, self._dtype))

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def save(self, path: Path) -> None:
        self.backend.save(str(path))


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


def load(path: Path) -> BytePairTokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        DataError: the file is not one.
    """
    try:
        return BytePairTokenizer(tokenizers.Tokenizer.from_file(str(path)))
    except Exception as error:
        raise DataError(f"{path} is not a tokenizer: {error}") from error
