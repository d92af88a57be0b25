"""The perplexity filter: what an n-gram model of good text finds improbable is not like it.

Wenzek et al. 2020 (CCNet), https://arxiv.org/abs/1911.00359, keep what is near to Wikipedia by a 5-gram model of
SentencePiece tokens. Here the model is our own, of characters, fitted on texts that the user names: it needs no
tokenizer, and its figures compare across languages with the same script.
"""

import math
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.data.filters.english_words import groups
from pretrain.data.filters.rules import check_bounds
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits, Record, SourceFile, Unreadable
from pretrain.errors import ConfigError, DataError, UsageError
from pretrain.models.ngram import NGram
from pretrain.tokenizers.characters import Characters, CharacterTokenizer

LIMITS = Limits(document_bytes=64_000_000, expansion=200.0, replaced=0.01)
MIN_COUNT = 2  # a character that the reference holds once is as strange as one that it lacks
CHARACTERS_AT_ONCE = 1_000_000  # of a batch that are scored together


class Perplexity:
    """Drops documents whose perplexity a character is too high, or too low, for a model of reference texts.

    Args:
        paths: the reference: files, folders or patterns of them, as `data=files` reads them; null: all documents stay.
        text_field: of JSON lines, CSV and Parquet among them.
        reference_bytes: of their text that the model is fitted on, at most.
        order: characters of the longest n-gram.
        min_perplexity, max_perplexity: a character's; null sets no bound. A character that the reference lacks costs
            what its UTF-8 bytes cost.
    Raises:
        ConfigError: a path is missing, or the bounds cross.
        DataError: the reference holds no text.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    edits: ClassVar[bool] = False  # no text changes

    def __init__(
        self,
        *,
        paths: list[str] | None,
        text_field: str,
        reference_bytes: Annotated[int, Gt(0)],
        order: Annotated[int, Interval(ge=1, le=12)],
        min_perplexity: Annotated[float, Ge(1)] | None,
        max_perplexity: Annotated[float, Ge(1)] | None,
    ) -> None:
        check_bounds("perplexity", min_perplexity, max_perplexity)
        self.low = min_perplexity or 1.0
        self.high = math.inf if max_perplexity is None else max_perplexity
        self._settings = (text_field, reference_bytes, order)
        self._files = () if paths is None else _files(paths, text_field)
        # What stands for the setting in the key: the files' contents, wherever they lie.
        self.contents: dict[str, Any] = {
            "paths": None if paths is None else _fingerprint(self._files, text_field, reference_bytes)
        }

    def __call__(self, documents: pa.Table) -> StageOutput:
        if not self._files:
            return partition(documents, [None] * len(documents))
        tokenizer, model = _fitted(self._files, *self._settings)
        texts = documents["text"].to_pylist()
        values: list[float] = []
        for part in groups(texts, CHARACTERS_AT_ONCE):
            values += perplexities(texts[part.start : part.stop], tokenizer, model)
        return partition(documents, [self._judge(value) for value in values])

    def _judge(self, value: float) -> Drop | None:
        if value > self.high:
            reason = f"a perplexity of {value:.1f} a character; at most {self.high:g} may be"
            return Drop("max_perplexity", value, self.high, reason)
        if value < self.low:
            reason = f"a perplexity of {value:.2f} a character; at least {self.low:g} must be"
            return Drop("min_perplexity", value, self.low, reason)
        return None


def perplexities(texts: list[str], tokenizer: CharacterTokenizer, model: NGram) -> list[float]:
    """The perplexity a character of each text, its end counted as one; 1 for a text without characters."""
    ids = tokenizer.encode_batch(texts)
    losses = model.stream_losses(_stream(ids, tokenizer))
    totals = np.add.reduceat(losses, np.cumsum([0, *(len(text) + 1 for text in ids[:-1])]))
    return [math.exp(total / (len(text) + 1)) for total, text in zip(totals.tolist(), texts, strict=True)]


def _stream(ids: list[NDArray[Any]], tokenizer: CharacterTokenizer) -> NDArray[Any]:
    """EOT document EOT ... EOT."""
    end = np.array([tokenizer.end_of_text], ids[0].dtype)
    return np.concatenate([end, *(part for document in ids for part in (document, end))])


@lru_cache(maxsize=1)
def _fitted(
    files: tuple[SourceFile, ...], text_field: str, reference_bytes: int, order: int
) -> tuple[CharacterTokenizer, NGram]:
    texts = _texts(files, text_field, reference_bytes)
    tokenizer = Characters(min_count=MIN_COUNT, sample_bytes=reference_bytes).train(texts)
    model = NGram(tokenizer.vocab_size, order=order, smoothing="kneser_ney", k=1.0)
    model.fit(_stream(tokenizer.encode_batch(texts), tokenizer), tokenizer.end_of_text)
    return tokenizer, model


def _files(paths: list[str], text_field: str) -> tuple[SourceFile, ...]:
    try:
        return tuple(Files(paths=paths, text_field=text_field, unit="file", extractor="resiliparse").files())
    except UsageError as error:
        raise ConfigError(f"perplexity: {str(error).removeprefix('data.paths: ')}") from error


def _fingerprint(files: tuple[SourceFile, ...], text_field: str, most: int) -> str:
    """Of the text that the model is fitted on."""
    return xxhash.xxh3_128_hexdigest("\0".join(_texts(files, text_field, most)).encode())


def _texts(files: tuple[SourceFile, ...], text_field: str, most: int) -> list[str]:
    """The texts of the files, in order, until `most` bytes are read.

    Raises:
        DataError: there are none, or a file cannot be read.
    """
    source = Files(paths=[], text_field=text_field, unit="file", extractor="resiliparse")
    texts = []
    for file in files:
        try:
            for record in source.read(file, LIMITS):
                if isinstance(record, Record) and record.text:
                    texts.append(record.text[:most])
                    most -= len(record.text.encode())
                if most <= 0:
                    return texts
        except Unreadable as error:
            raise DataError(f"perplexity: {file.path}: {error}") from error
    if not texts:
        raise DataError(f"perplexity: {', '.join(file.path for file in files) or 'paths'} holds no text")
    return texts
