"""Byte-level byte-pair encoding, trained and run by the library `tokenizers`.

Every byte is a token before the first merge, so every text can be encoded (Radford et al. 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

import tokenizers
from annotated_types import Ge, Interval
from tokenizers import decoders, models, pre_tokenizers, trainers

from pretrain.errors import DataError
from pretrain.tokenizers.backend import BackendTokenizer
from pretrain.tokenizers.tokenizer import END_OF_TEXT

LONG_RUN = re.compile(r"(\S{1000})(?=\S)")  # the trainer takes the square of its length for a word


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

    def train(self, texts: Iterable[str]) -> BackendTokenizer:
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
        return BackendTokenizer(backend)


def load(path: Path) -> BackendTokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        DataError: the file is not one.
    """
    try:
        return BackendTokenizer(tokenizers.Tokenizer.from_file(str(path)))
    except Exception as error:
        raise DataError(f"{path} is not a tokenizer: {error}") from error
