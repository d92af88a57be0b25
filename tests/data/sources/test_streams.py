"""Opening files: every compression, whole or in several pieces, cut, damaged, or a bomb."""

import bz2
import gzip
import io
import lzma
import tracemalloc

import fsspec
import numpy as np
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.sources import streams
from pretrain.data.sources.reading import Limits, SourceFile, Unreadable
from pretrain.data.sources.streams import decompressed, is_compressed, opened

LIMITS = Limits(document_bytes=1000, expansion=200.0, replaced=0.01)
COMPRESS = {"gzip": gzip.compress, "zstd": zstd.compress, "bz2": bz2.compress, "xz": lzma.compress}
kinds = pytest.mark.parametrize("kind", COMPRESS)

NOISE = np.random.default_rng(1).integers(0, 256, 700_000, np.uint8).tobytes()


def content_of(raw: bytes, limits: Limits = LIMITS) -> bytes:
    return decompressed(io.BufferedReader(io.BytesIO(raw)), limits).read()


def good_content(raw: bytes, limits: Limits = LIMITS) -> tuple[bytes, str | None]:
    """What can be read before the fault, and its rule."""
    stream = decompressed(io.BufferedReader(io.BytesIO(raw)), limits)
    pieces = []
    try:
        while piece := stream.read1(1 << 16):
            pieces.append(piece)
    except Unreadable as error:
        return b"".join(pieces), error.rule
    return b"".join(pieces), None


@kinds
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_members_one_behind_the_other_are_the_content_of_all(kind, members, padding):
    raw = b"".join(COMPRESS[kind](member) for member in members)
    assert content_of(raw) == b"".join(members)
    assert content_of(raw + bytes(padding)) == b"".join(members)


@kinds
def test_a_file_of_many_chunks_and_its_padding_come_back_whole(kind):
    raw = COMPRESS[kind](NOISE)
    assert content_of(raw + raw + bytes(600_000)) == NOISE + NOISE
    assert is_compressed(raw)


@kinds
def test_an_empty_member_ends_nothing(kind):
    empty = COMPRESS[kind](b"")
    assert content_of(empty) == b""
    assert content_of(empty + COMPRESS[kind](b"words") + empty + empty) == b"words"


def test_frames_of_zstd_that_hold_no_content_are_skipped_wherever_they_stand():
    """As pzstd and the seekable format write them."""
    empty = b"\x5e\x2a\x4d\x18\x04\0\0\0abcd"
    one, two = zstd.compress(b"one"), zstd.compress(b"two")
    for raw in (empty + one + two, one + empty + two, one + two + empty, empty + empty + one + two):
        assert content_of(raw) == b"onetwo"
    assert good_content(one + empty[:-1]) == (b"one", "truncated")


@pytest.mark.parametrize("raw", [b"", b"words", b"BZhello", b"\x1f", b"\x28\xb5", b"\0" * 50], ids=repr)
def test_what_is_not_compressed_is_read_as_it_is(raw):
    assert content_of(raw) == raw
    assert not is_compressed(raw)


@kinds
@pytest.mark.parametrize("members", [1, 2])
def test_a_cut_file_gives_all_that_is_good_and_is_then_called_truncated(kind, members):
    raw = COMPRESS[kind](b"first " * 50) * (members - 1)
    whole = b"first " * 50 * (members - 1)
    start = len(raw)
    raw += COMPRESS[kind](NOISE[:3000])
    for cut in {start + 1, start + 2, start + 7, (start + len(raw)) // 2, len(raw) - 5, len(raw) - 1}:
        if cut < 8:
            continue  # too little to tell that it is compressed
        content, rule = good_content(raw[:cut])
        assert rule == "truncated"
        assert content.startswith(whole)
        assert (whole + NOISE).startswith(content)


def test_a_cut_gzip_loses_no_byte_that_stands_before_the_cut():
    stored = gzip.compress(NOISE, compresslevel=0)
    content, rule = good_content(stored[:500_000])
    assert rule == "truncated"
    assert 499_000 < len(content) < 500_000
    assert NOISE.startswith(content)


@kinds
def test_a_flipped_bit_is_damage_and_what_comes_before_it_is_good(kind):
    """In any byte but those that hold no content: flags, a time, a name."""
    options = {"options": {zstd.CompressionParameter.checksum_flag: 1}} if kind == "zstd" else {}
    raw = COMPRESS[kind](NOISE[:1000], **options)
    for place in range(40, len(raw) - 30, 97):
        flipped = bytearray(raw)
        flipped[place] ^= 0x10
        content, rule = good_content(bytes(flipped))
        assert rule == "damaged", place
        assert len(content) <= 1000


@kinds
def test_what_follows_a_compressed_stream_and_is_none_is_damage(kind):
    content, rule = good_content(COMPRESS[kind](b"words") + b"something else")
    assert (content, rule) == (b"words", "damaged")
    content, rule = good_content(COMPRESS[kind](b"words") + bytes(600_000) + b"something else")
    assert (content, rule) == (b"words", "damaged")


@kinds
def test_a_bomb_is_noticed_before_it_fills_the_memory(kind):
    """A thousand bytes of zeros for each byte of the file, and more."""
    zeros = bytes(1 << 26)
    raw = COMPRESS[kind](zeros)
    assert len(zeros) > 900 * len(raw)
    stream = decompressed(io.BufferedReader(io.BytesIO(raw)), LIMITS)
    tracemalloc.start()
    size, rule = 0, None
    try:
        while piece := stream.read1(1 << 20):
            size += len(piece)
    except Unreadable as error:
        rule = error.rule
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rule == "bomb"
    assert size <= streams.SMALL + (1 << 20)
    assert peak < 20_000_000


@kinds
def test_a_bomb_of_many_small_members_is_noticed(kind):
    member = COMPRESS[kind](bytes(100_000))
    assert LIMITS.expansion * len(member) < 100_000
    assert good_content(member * (1 + 2 * streams.SMALL // 100_000))[1] == "bomb"


@kinds
def test_the_same_content_is_no_bomb_where_more_expansion_is_allowed(kind):
    raw = COMPRESS[kind](bytes(1 << 25))
    assert len(content_of(raw, LIMITS._replace(expansion=1e9))) == 1 << 25
    assert good_content(raw)[1] == "bomb"


@pytest.mark.parametrize("compress", [bytes, *COMPRESS.values()], ids=["plain", *COMPRESS])
def test_reads_never_go_past_the_listed_size(tmp_path, compress):
    listed = compress(b"the listed content\n")
    path = tmp_path / "a"
    path.write_bytes(listed + compress(b"appended later\n"))
    with opened(SourceFile("a", str(path), len(listed)), LIMITS) as stream:
        assert stream.read() == b"the listed content\n"
        assert stream.read() == b""


def test_a_plain_file_can_be_read_from_any_place_within_its_listed_size(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    with opened(SourceFile("a", str(tmp_path / "a"), 6), LIMITS) as stream:
        assert stream.seek(4) == 4
        assert stream.read() == b"45"
        assert stream.seek(-2, io.SEEK_END) == 4
        assert stream.read(1) == b"4"
        assert stream.seek(1, io.SEEK_CUR) == 6
        assert stream.read() == b""


@kinds
@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_file_at_an_address_is_read_like_a_local_one(tmp_path, kind, protocol):
    path = f"{protocol}://{tmp_path}/a.bin"
    raw = COMPRESS[kind](NOISE)
    with fsspec.open(path, "wb") as file:
        file.write(raw)
    with opened(SourceFile("a.bin", path, len(raw)), LIMITS) as stream:
        assert stream.read() == NOISE


def test_closing_a_stream_closes_the_file(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(b"words"))
    stream = opened(SourceFile("a", str(tmp_path / "a"), 100), LIMITS)
    assert stream.read() == b"words"
    stream.close()  # what stays open is a warning, and that an error
