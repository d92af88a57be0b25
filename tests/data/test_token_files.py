"""nanoGPT's and Megatron-LM's files: read as their programs write them, written as their programs read them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.shards import ShardWriter, TokenStream, read_manifest, shard_dtype, write_manifest
from pretrain.data.token_files import read_documents, read_index, write_megatron, write_nanogpt
from pretrain.errors import DataError

EOT = 0


def megatron_index(code, lengths, pointers, documents, version=1, magic=b"MMIDIDX\x00\x00") -> bytes:
    """The bytes of an index, field by field, as _IndexWriter of Megatron-LM's indexed_dataset.py writes them."""
    content = magic + struct.pack("<Q", version) + struct.pack("<B", code)
    content += struct.pack("<Q", len(lengths)) + struct.pack("<Q", len(documents))
    content += struct.pack(f"<{len(lengths)}i", *lengths)
    content += struct.pack(f"<{len(pointers)}q", *pointers)
    return content + struct.pack(f"<{len(documents)}q", *documents)


def megatron(folder: Path, dtype: str, tokens, *index, **more) -> Path:
    path = folder / "corpus_text_document.bin"
    np.array(tokens, dtype).tofile(path)
    path.with_suffix(".idx").write_bytes(megatron_index(*index, **more))
    return path


def lists(documents) -> list[list[int]]:
    return [document.tolist() for document in documents]


def make_shards(folder: Path, shards, vocab_size=300) -> TokenStream:
    """A stream of documents, a list of them a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, documents in enumerate(shards):
        writer = ShardWriter(folder, f"train-{number:05d}", vocab_size=vocab_size, end_of_text=EOT, source="test")
        writer.write([str(place) for place in range(len(documents))], [np.array(ids, np.int64) for ids in documents])
        shard = writer.close(last=number == len(shards) - 1)
        written.append({name: getattr(shard, name) for name in shard.__slots__})
    manifest = {"key": "k", "tokenizer": "t", "vocab_size": vocab_size, "end_of_text": EOT}
    write_manifest(folder, manifest | {"dtype": shard_dtype(vocab_size).name, "splits": {"train": written}})
    return TokenStream(folder, "train", read_manifest(folder))


documents_strategy = st.lists(st.lists(st.integers(1, 299), min_size=1, max_size=6), min_size=1, max_size=6)


@given(shards=st.lists(documents_strategy, min_size=1, max_size=3))
@settings(deadline=None, max_examples=40)
def test_what_is_written_in_either_form_is_read_back(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("forms")
    documents = [ids for shard in shards for ids in shard]
    stream = make_shards(folder / "ours", shards)
    assert lists(stream.documents()) == documents
    write_nanogpt(stream, folder / "train.bin")
    assert np.fromfile(folder / "train.bin", "<u2").tolist() == [id_ for ids in documents for id_ in (*ids, EOT)]
    assert lists(read_documents(folder / "train.bin", EOT)) == documents
    write_megatron(stream, folder / "megatron.bin")
    assert lists(read_documents(folder / "megatron.bin", EOT)) == documents


def test_megatrons_index_has_the_bytes_that_its_own_writer_gives_it(tmp_path):
    stream = make_shards(tmp_path / "ours", [[[7, 8], [9]], [[5, 5, 5]]])
    write_megatron(stream, tmp_path / "a.bin")
    assert (tmp_path / "a.idx").read_bytes() == megatron_index(8, [3, 2, 4], [0, 6, 10], [0, 1, 2, 3])
    large = make_shards(tmp_path / "large", [[[70_000, 8], [9]]], vocab_size=100_000)
    write_megatron(large, tmp_path / "b.bin")
    assert (tmp_path / "b.idx").read_bytes() == megatron_index(4, [3, 2], [0, 12], [0, 1, 2])
    assert lists(read_documents(tmp_path / "b.bin", EOT)) == [[70_000, 8], [9]]


def test_ids_that_nanogpt_cannot_hold_are_not_cut(tmp_path):
    stream = make_shards(tmp_path / "ours", [[[70_000]]], vocab_size=100_000)
    with pytest.raises(DataError, match=r"do not fit nanoGPT's uint16"):
        write_nanogpt(stream, tmp_path / "train.bin")
    assert not (tmp_path / "train.bin").exists()


@pytest.mark.parametrize(("code", "dtype"), [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_every_type_of_ids_is_read(tmp_path, code, dtype):
    size = np.dtype(dtype).itemsize
    path = megatron(tmp_path, dtype, [1, 2, EOT, 3, EOT], code, [3, 2], [0, 3 * size], [0, 1, 2])
    assert lists(read_documents(path, EOT)) == [[1, 2], [3]]


def test_a_document_is_all_its_sequences_wherever_they_lie(tmp_path):
    path = megatron(tmp_path, "<u2", range(1, 11), 8, [2, 3, 1], [16, 0, 6], [0, 2, 3])
    assert lists(read_documents(path, EOT)) == [[9, 10, 1, 2, 3], [4]]


def test_modes_of_a_multimodal_corpus_are_passed_over(tmp_path):
    path = megatron(tmp_path, "<u2", [1, 2], 8, [1, 1], [0, 2], [0, 1, 2])
    with path.with_suffix(".idx").open("ab") as file:
        file.write(b"\0\0")
    assert lists(read_documents(path, EOT)) == [[1], [2]]


@pytest.mark.parametrize(
    ("index", "more", "message"),
    [
        ((8, [2], [0], [0, 1]), {"magic": b"TNTIDX\x00\x00\x00"}, r"corpus_text_document\.idx is not an index"),
        ((8, [2], [0], [0, 1]), {"version": 2}, "version 2"),
        ((7, [2], [0], [0, 1]), {}, "code 7 is no type of token ids"),
        ((8, [2], [0], [0, 2]), {}, "does not go from 0 to 1"),
        ((8, [2], [0], []), {}, "does not go from 0 to 1"),
        ((8, [-2], [0], [0, 1]), {}, "negative"),
        ((8, [3], [0], [0, 1]), {}, r"corpus_text_document\.bin and .*idx do not belong together"),
        ((8, [1], [1], [0, 1]), {}, "do not belong together"),
    ],
)
def test_an_index_that_is_not_of_this_form_is_refused(tmp_path, index, more, message):
    path = megatron(tmp_path, "<u2", [1, 2], *index, **more)
    with pytest.raises(DataError, match=message):
        list(read_documents(path, EOT))


@pytest.mark.parametrize("size", [0, 8, 33, 40, 53])
def test_a_cut_index_is_refused(tmp_path, size):
    path = megatron(tmp_path, "<u2", [1, 2], 8, [2], [0], [0, 1]).with_suffix(".idx")
    content = path.read_bytes()
    assert read_index(path).lengths.tolist() == [2]
    path.write_bytes(content[:size])
    with pytest.raises(DataError, match=r"corpus_text_document\.idx is (cut|not an index)"):
        read_index(path)


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_an_empty_or_cut_file_is_refused(tmp_path, content):
    (tmp_path / "train.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.bin is empty or cut"):
        list(read_documents(tmp_path / "train.bin", EOT))


@pytest.mark.parametrize(
    ("tokens", "documents"),
    [
        ([1, 2, EOT, 3, EOT], [[1, 2], [3]]),
        ([EOT, 1, 2, EOT, 3], [[1, 2], [3]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([EOT, EOT, 1, EOT, EOT], [[1]]),
        ([EOT], []),
    ],
)
def test_documents_stand_between_ends_of_text_however_many(tmp_path, tokens, documents, monkeypatch):
    np.array(tokens, "<u2").tofile(tmp_path / "train.bin")
    for at_once in (1, 2, 100):
        monkeypatch.setattr("pretrain.data.token_files.SCANNED_AT_ONCE", at_once)
        assert lists(read_documents(tmp_path / "train.bin", EOT)) == documents
