"""Reading a .model of SentencePiece, a message of Protocol Buffers, into a tokenizer of the library `tokenizers`.

The fields are those of https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto, the wire
format is https://protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of the model
NAME, SCORE, KIND = 1, 2, 3  # fields of a piece
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # kinds of pieces
MODEL_TYPE, BYTE_FALLBACK = 3, 35  # fields of the trainer's settings
UNIGRAM, BPE = 1, 2  # types of models
CHARACTER_MAP, DUMMY_PREFIX, EXTRA_SPACES = 2, 3, 4  # fields of the normalizer's settings
SPACE = "▁"  # how it writes a space


def from_sentencepiece(content: bytes) -> tokenizers.Tokenizer:
    """The tokenizer in a .model file.

    Raises:
        ValueError: the file is cut, or of another type than unigram or BPE.
    """
    fields = list(message(content))
    pieces = [dict(message(value)) for field, value in fields if field == PIECES]
    if not pieces:
        raise ValueError("it holds no pieces")
    trainer, normalizer = (
        dict(message(next((value for number, value in fields if number == field), b"")))
        for field in (TRAINER, NORMALIZER)
    )
    vocabulary = [(piece[NAME].decode(), number_of(piece.get(SCORE))) for piece in pieces]
    kinds = [piece.get(KIND, NORMAL) for piece in pieces]
    if UNKNOWN not in kinds:
        raise ValueError("it has no piece for what is unknown")
    unknown, fallback = kinds.index(UNKNOWN), bool(trainer.get(BYTE_FALLBACK, 0))
    model: models.Model
    match trainer.get(MODEL_TYPE, UNIGRAM):
        case 1:
            model = models.Unigram(vocabulary, unknown, byte_fallback=fallback)
        case 2:
            ids = {name: token for token, (name, _) in enumerate(vocabulary)}
            model = models.BPE(
                ids, merges(vocabulary), unk_token=vocabulary[unknown][0], fuse_unk=True, byte_fallback=fallback
            )
        case other:
            raise ValueError(f"models of type {other} are neither unigram nor BPE")
    backend = tokenizers.Tokenizer(model)
    steps: list[Any] = [normalizers.Precompiled(normalizer[CHARACTER_MAP])] if normalizer.get(CHARACTER_MAP) else []
    if normalizer.get(EXTRA_SPACES, 1):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    prefix = "always" if normalizer.get(DUMMY_PREFIX, 1) else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prefix, split=trainer.get(MODEL_TYPE, UNIGRAM) == UNIGRAM)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix == "always" else []),
        ]
    )
    for (name, _), kind in zip(vocabulary, kinds, strict=True):
        if kind in (UNKNOWN, CONTROL, USER_DEFINED):
            backend.add_tokens([AddedToken(name, special=kind != USER_DEFINED, normalized=False)])
    return backend


def pieces_of(content: bytes) -> list[tuple[str, float]]:
    """The pieces in a .model file that text is made of, and their scores."""
    pieces = (dict(message(value)) for field, value in message(content) if field == PIECES)
    normal = (piece for piece in pieces if piece.get(KIND, NORMAL) == NORMAL)
    return [(piece[NAME].decode(), number_of(piece.get(SCORE))) for piece in normal]


def merges(vocabulary: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the highest score first, as SentencePiece applies them."""
    ids = {name: token for token, (name, _) in enumerate(vocabulary)}
    found = [
        (-score, ids[name[:cut]], ids[name[cut:]], name[:cut], name[cut:])
        for name, score in vocabulary
        for cut in range(1, len(name))
        if name[:cut] in ids and name[cut:] in ids
    ]
    return [(first, second) for *_, first, second in sorted(found)]


def message(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their numbers, and their values as integers or bytes."""
    at = 0
    while at < len(content):
        key, at = varint(content, at)
        match key & 7:
            case 0:
                value, at = varint(content, at)
                yield key >> 3, value
            case 1 | 5 as wire:
                size = 8 if wire == 1 else 4
                yield key >> 3, content[at : at + size]
                at += size
            case 2:
                size, at = varint(content, at)
                yield key >> 3, content[at : at + size]
                at += size
            case other:
                raise ValueError(f"wire type {other} at byte {at}")
    if at != len(content):
        raise ValueError("the file is cut")


def varint(content: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where the next field begins."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def number_of(content: bytes | None) -> float:
    return float(struct.unpack("<f", content)[0]) if content else 0.0
