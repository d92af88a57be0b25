"""Byte-level byte-pair encoding, trained and run by the library `tokenizers`.

Every byte is a token before the first merge, so every text can be encoded (Radford et al. 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import tokenizers
from annotated_types import Ge, Interval
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from pretrain.tokenizers.backend import BackendTokenizer
from pretrain.tokenizers.splitting import SPLITTINGS, SplittingName, with_short_runs
from pretrain.tokenizers.tokenizer import END_OF_TEXT


class BytePairEncoding:
    """How to train one: the settings that a config chooses.

    Args:
        vocab_size: ids: the end of text, 256 bytes, and merges; 257 makes every byte a token.
        splitting: where no merge goes across: gpt2, gpt4 (three digits a piece, marks with the word behind them) or
            scripts (as gpt4, and where kanji, hiragana and katakana meet, for Japanese).
        sample_bytes: UTF-8 bytes of text to learn merges from, at most.
    """

    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("tokenizers",)

    def __init__(
        self,
        *,
        vocab_size: Annotated[int, Interval(ge=257, le=2**24)],
        splitting: SplittingName = "gpt2",
        sample_bytes: Annotated[int, Ge(0)],
    ) -> None:
        self.vocab_size = vocab_size
        self.splitting = splitting
        self.sample_bytes = sample_bytes

    def train(self, texts: Iterable[str]) -> BackendTokenizer:
        """Learn merges from `texts`; a small corpus may hold fewer than asked for."""
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITTINGS[self.splitting].pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(map(with_short_runs, texts), trainer)
        return BackendTokenizer(backend)

    def fingerprint(self) -> str:
        return ""
