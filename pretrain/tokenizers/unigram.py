"""A unigram vocabulary: the pieces whose probabilities explain the training text best, learned by SentencePiece.

Kudo 2018, https://arxiv.org/abs/1804.10959. A text becomes its most probable pieces. Characters that are too rare for
a piece become their UTF-8 bytes, and white space stays what it is, so every text comes back as it was. (The trainer of
the library `tokenizers` gives other probabilities each time it is run.)
"""

import io
import math
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, ClassVar

import tokenizers
from annotated_types import Ge, Interval
from tokenizers import Regex, decoders, models, pre_tokenizers

from pretrain.errors import ConfigError
from pretrain.tokenizers.backend import BackendTokenizer
from pretrain.tokenizers.sentencepiece_model import SPACE, pieces_of
from pretrain.tokenizers.splitting import SPLITTINGS, SplittingName, with_short_runs
from pretrain.tokenizers.tokenizer import END_OF_TEXT

# Always pieces: a literal <0x41> is then never read as a byte, and no text is long because of its line feeds.
BASIC = ["\t", "\n", *(chr(code) for code in range(0x20, 0x7F))]
RARE_BYTE = -1e4  # logarithm of the probability of a byte: what a text is split into where nothing else is left
SMALLEST = 1 + 256 + len(BASIC)
SHORTEST_VOCABULARY = 8  # pieces that SentencePiece can be asked for


class Unigram:
    """How to learn the pieces.

    Args:
        vocab_size: ids: the end of text, 256 bytes, tab, line feed, 95 printable characters of ASCII, and pieces.
        splitting: where no piece goes across: gpt2, gpt4 or scripts.
        character_coverage: share of the sample's characters that are made of the characters which become pieces.
        max_piece_length: characters of a piece, at most.
        sample_bytes: UTF-8 bytes of text to learn from, at most.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("sentencepiece", "tokenizers")

    def __init__(
        self,
        *,
        vocab_size: Annotated[int, Interval(ge=SMALLEST, le=2**24)],
        splitting: SplittingName,
        character_coverage: Annotated[float, Interval(gt=0, le=1)],
        max_piece_length: Annotated[int, Ge(1)],
        sample_bytes: Annotated[int, Ge(0)],
    ) -> None:
        self.vocab_size = vocab_size
        self.splitting = splitting
        self.character_coverage = character_coverage
        self.max_piece_length = max_piece_length
        self.sample_bytes = sample_bytes

    def train(self, texts: Iterable[str]) -> BackendTokenizer:
        """Learn pieces from `texts`, which are held in memory; a small corpus may give fewer than asked for.

        Raises:
            ConfigError: SentencePiece is not installed.
        """
        sample = list(texts)
        counts = Counter(character for text in sample for character in text)
        frequent = frequent_characters(counts, self.character_coverage)[: self.vocab_size - SMALLEST]
        rare = str.maketrans(dict.fromkeys(set(counts) - {*frequent, *BASIC}, "\n"))
        room = max(self.vocab_size - 1 - 256, len(frequent) + len(BASIC) + SHORTEST_VOCABULARY)
        lines = (line for text in sample for line in with_short_runs(text.translate(rare)).splitlines() if line.strip())
        pieces = dict(self._learned(list(lines), room))
        scale = math.log(counts.total() + 1)
        characters = {name: math.log(counts[name] + 1) - scale for name in [*BASIC, *frequent]}
        pieces = {name: round(score, 6) for name, score in (characters | pieces).items()}
        longer = sorted((name for name in pieces if name not in characters), key=lambda name: (-pieces[name], name))
        chosen = [*characters, *longer[: self.vocab_size - 1 - 256 - len(characters)]]
        vocabulary = [
            (END_OF_TEXT, RARE_BYTE),
            *((f"<0x{byte:02X}>", RARE_BYTE) for byte in range(256)),
            *((name, pieces[name]) for name in chosen),
        ]
        backend = tokenizers.Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(SPLITTINGS[self.splitting].pattern), "isolated")
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        backend.add_special_tokens([END_OF_TEXT])
        return BackendTokenizer(backend)

    def fingerprint(self) -> str:
        return ""

    def _learned(self, lines: list[str], vocab_size: int) -> list[tuple[str, float]]:
        """Pieces of at least one character and the logarithms of their probabilities."""
        if not lines:
            return []
        try:
            from sentencepiece import SentencePieceTrainer
        except ImportError as error:
            raise ConfigError("tokenizer=unigram needs SentencePiece: pip install 'pretrain[sentencepiece]'") from error
        model = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,  # what is too rare is no more in the lines
            max_sentencepiece_length=self.max_piece_length,
            max_sentence_length=2**30,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        return [(name.replace(SPACE, " "), score) for name, score in pieces_of(model.getvalue())]


def frequent_characters(counts: Counter[str], coverage: float) -> list[str]:
    """The most frequent characters that together make up the share `coverage` of all, but for the basic ones."""
    left = coverage * counts.total()
    chosen = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if left <= 0:
            break
        left -= count
        if character not in BASIC:
            chosen.append(character)
    return chosen
