"""Token shards: what is written, what is read, and what is noticed when they are damaged."""

import gc
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data import tokenizing
from pretrain.data.executors import Pool, Serial
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.data.stages import Silent, Workspace
from pretrain.data.tokenizing import train_tokenizer, write_shards
from pretrain.errors import DataError
from pretrain.tokenizers.backend import BackendTokenizer
from pretrain.tokenizers.bpe import BytePairEncoding
from pretrain.tokenizers.loading import load

EOT = 0


@pytest.fixture
def shards_of(shard_documents, tokenizer_file, tmp_path):
    """A function that writes token shards of lists of texts, a list a shard."""

    def write(train, validation=(["held out"],), executor=None, data_dir=tmp_path):
        sides = {"train": shard_documents(train, data_dir), "validation": shard_documents(validation, data_dir)}
        return write_shards(tokenizer_file, sides, Workspace(data_dir, executor or Serial(), Silent()))

    return write


def stream_of(folder: Path, split="train") -> TokenStream:
    return TokenStream(folder, split, read_manifest(folder))


def documents_of(stream: TokenStream, tokenizer_file: Path) -> list[str]:
    tokens = stream.read(0, len(stream))
    ends = np.flatnonzero(tokens == EOT)
    assert ends[0] == 0
    assert ends[-1] == len(tokens) - 1
    tokenizer = load(tokenizer_file)
    return [tokenizer.decode(tokens[a + 1 : b].tolist()) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    "sizes", [[30], [10, 10, 10], [1, 28, 1], [0, 30], [15, 0, 15], [29, 1, 0], [10, 20, 0, 0]], ids=str
)
def test_the_stream_is_every_document_between_ends_of_text(shards_of, tiny_corpus, tokenizer_file, sizes):
    cuts = np.cumsum([0, *sizes])
    stream = stream_of(shards_of([tiny_corpus[a:b] for a, b in itertools.pairwise(cuts)]))
    assert documents_of(stream, tokenizer_file) == tiny_corpus
    assert len(stream.shards) == len(sizes)


def test_empty_documents_are_kept_between_their_ends_of_text(shards_of, tokenizer_file):
    stream = stream_of(shards_of([["", "a"], [""]]))
    assert documents_of(stream, tokenizer_file) == ["", "a", ""]


@given(
    tokens=st.lists(st.integers(0, 2**16 - 1), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    ends=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
@settings(deadline=None, max_examples=60)
def test_reading_across_shards_equals_reading_the_joined_array(make_stream, tokens, cuts, ends):
    stream = make_stream(tokens, cuts=sorted(min(cut, len(tokens)) for cut in cuts))
    start, stop = sorted(ends)
    read = stream.read(start, stop)
    assert read.tolist() == tokens[start:stop]
    assert read.dtype == np.int64
    assert stream.array().tolist() == tokens
    assert len(stream) == len(tokens)


def test_the_document_index_points_at_ends_of_text(shards_of, tiny_corpus):
    folder = shards_of([tiny_corpus[:7], tiny_corpus[7:]])
    for name, documents in (("train-00000", 7), ("train-00001", 23)):
        starts = np.fromfile(folder / f"{name}.idx", "<u8")
        tokens = np.fromfile(folder / f"{name}.bin", "<u2")
        assert len(starts) == documents
        assert starts.tolist() == np.flatnonzero(tokens == EOT)[:documents].tolist()


def test_bytes_characters_words_and_documents_are_counted(shards_of):
    texts = ["one two  three\n", "吾輩は 猫", "", "e\u0301 🙂"]
    stream = stream_of(shards_of([texts[:1], texts[1:]]))
    assert stream.bytes == sum(len(text.encode()) for text in texts)
    assert stream.characters == sum(len(text) for text in texts)
    assert stream.words == 3 + 2 + 0 + 2
    assert [shard.documents for shard in stream.shards] == [1, 3]
    assert sum(shard.tokens for shard in stream.shards) == len(stream)


def test_an_end_of_text_written_out_in_a_document_is_plain_text(shards_of, tokenizer_file):
    texts = ["before <|endoftext|> after", "<|endoftext|>", "<|endoftext|><|endoftext|>"]
    stream = stream_of(shards_of([texts]))
    assert documents_of(stream, tokenizer_file) == texts
    assert (stream.read(0, len(stream)) == EOT).sum() == 4


@pytest.mark.parametrize("place", [0, 41, -1])
def test_a_flipped_bit_is_found_and_its_file_named(shards_of, tiny_corpus, place):
    folder = shards_of([tiny_corpus[:10], tiny_corpus[10:]])
    stream_of(folder).verify()
    damaged = folder / "train-00001.bin"
    content = bytearray(damaged.read_bytes())
    content[place] ^= 0x10
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00001\.bin is damaged"):
        stream_of(folder).verify()


def test_a_flipped_bit_in_a_document_index_is_found_and_its_file_named(shards_of, tiny_corpus):
    folder = shards_of([tiny_corpus[:10], tiny_corpus[10:]])
    damaged = folder / "train-00000.idx"
    content = bytearray(damaged.read_bytes())
    content[8] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"document index .*train-00000\.idx is damaged"):
        stream_of(folder).verify()


def test_a_missing_or_cut_document_index_is_refused_when_the_shards_are_opened(shards_of, tiny_corpus):
    folder = shards_of([tiny_corpus])
    index = folder / "train-00000.idx"
    index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"document index .*train-00000\.idx is missing or cut"):
        stream_of(folder)
    index.unlink()
    with pytest.raises(DataError, match=r"document index .*train-00000\.idx is missing or cut"):
        stream_of(folder)


def test_a_renamed_shard_is_named_with_the_name_that_it_has_now(shards_of):
    folder = shards_of([["abc"], ["xyz"]])
    (folder / "train-00001.bin").rename(folder / "train-00007.bin")
    with pytest.raises(DataError, match=r"train-00001\.bin is missing or cut \(and train-00007\.bin is none of"):
        stream_of(folder)


def test_a_shard_that_nobody_wrote_is_refused(shards_of):
    folder = shards_of([["abc"]])
    (folder / "train-00001.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match=r"train-00001\.bin is not in the manifest"):
        stream_of(folder)


def test_reordered_shards_and_any_other_change_of_the_manifest_are_refused(shards_of):
    folder = shards_of([["abc"], ["xyz"]])
    written = json.loads((folder / "manifest.json").read_text())
    for change in (
        {"splits": written["splits"] | {"train": written["splits"]["train"][::-1]}},
        {"splits": written["splits"] | {"train": written["splits"]["train"][:1]}},
        {"tokenizer": "0" * 32},
        {"vocab_size": 5},
    ):
        (folder / "manifest.json").write_text(json.dumps(written | change))
        with pytest.raises(DataError, match=r"manifest\.json is not what was written"):
            read_manifest(folder)
    (folder / "manifest.json").write_text(json.dumps(written | {"version": 2}))
    with pytest.raises(DataError, match="another version of this program"):
        read_manifest(folder)


def test_a_shard_that_is_cut_while_it_is_read_is_named(shards_of):
    stream = stream_of(folder := shards_of([["abc" * 100]]))
    with (folder / "train-00000.bin").open("r+b") as file:
        file.truncate(11)
    assert len(stream.read(0, 5)) == 5
    with pytest.raises(DataError, match=r"train-00000\.bin is missing or cut"):
        stream.read(0, 6)


@pytest.mark.parametrize("sizes", [[1], [3, 2], [0, 3], [3, 0], [1, 0, 2, 0]], ids=str)
def test_documents_are_found_by_the_document_index(shards_of, tokenizer_file, sizes):
    texts = iter(["one", "", "two three", "猫", "five", "", "seven", "8", "nine", "ten", "", "twelve"])
    shards = [[next(texts) for _ in range(size)] for size in sizes]
    stream = stream_of(shards_of(shards))
    tokenizer = load(tokenizer_file)
    assert [tokenizer.decode(ids.tolist()) for ids in stream.documents()] == [
        text for shard in shards for text in shard
    ]


def test_more_shards_than_files_may_be_open_are_read(make_stream, monkeypatch):
    monkeypatch.setattr("pretrain.data.shards.MOST_OPEN_FILES", 2)
    stream = make_stream(range(100), cuts=range(5, 100, 5))
    for start in (90, 3, 55, 12, 0):
        assert stream.read(start, start + 10).tolist() == list(range(start, start + 10))
    assert stream._file.cache_info().currsize == 2


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 12, 100, None])
def test_the_beginning_of_a_stream_is_an_array_of_its_own(make_stream, stop):
    for cuts in ([], [5, 5, 9]):
        assert make_stream(range(12), cuts=cuts).array(stop).tolist() == list(range(12))[:stop]


def test_exchanged_shards_are_found(shards_of):
    folder = shards_of([["abc"], ["xyz"]])
    first, second = folder / "train-00000.bin", folder / "train-00001.bin"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes()[: len(content)])
    with pytest.raises(DataError, match="train-00000"):
        stream_of(folder).verify()


@pytest.mark.parametrize("size", [None, 0, -2, -1, +2], ids=["missing", "empty", "cut", "cut in a token", "longer"])
def test_a_missing_or_cut_shard_is_refused_when_it_is_opened(shards_of, tiny_corpus, size):
    folder = shards_of([tiny_corpus[:10], tiny_corpus[10:]])
    damaged = folder / "train-00001.bin"
    content = damaged.read_bytes()
    if size is None:
        damaged.unlink()
    else:
        damaged.write_bytes((content + b"\0\0")[: len(content) + size if size else 0])
    with pytest.raises(DataError, match=r"train-00001\.bin is missing or cut"):
        stream_of(folder)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no token shards"):
        read_manifest(tmp_path)


def test_a_damaged_manifest_is_refused(shards_of):
    folder = shards_of([["abc"]])
    (folder / "manifest.json").write_text('{"key": "12')
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


def test_serial_and_pool_write_the_same_shards(shards_of, tiny_corpus, tmp_path):
    texts = [tiny_corpus[:10], tiny_corpus[10:20], tiny_corpus[20:]]
    pool = Pool(workers=2)
    by_pool = shards_of(texts, executor=pool, data_dir=tmp_path / "pool")
    pool.close()
    serial = shards_of(texts, data_dir=tmp_path / "serial")
    assert serial.name == by_pool.name
    names = sorted(path.name for path in serial.iterdir())
    assert names == sorted(path.name for path in by_pool.iterdir())
    assert len(names) == 4 * 3 + 1
    for name in names:
        assert (serial / name).read_bytes() == (by_pool / name).read_bytes()


def test_written_shards_are_found_again(shards_of, tiny_corpus):
    folder = shards_of([tiny_corpus])
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert shards_of([tiny_corpus]) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_shards_that_were_being_written_are_gone_on_with(shards_of, tiny_corpus):
    folder = shards_of([tiny_corpus[:10], tiny_corpus[10:]])
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    finished = (folder / "train-00000.bin").stat().st_mtime_ns
    for name in ("manifest.json", "train-00001.json", "train-00001.idx"):
        (folder / name).unlink()
    assert shards_of([tiny_corpus[:10], tiny_corpus[10:]]) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    assert (folder / "train-00000.bin").stat().st_mtime_ns == finished


def test_a_token_outside_the_vocabulary_names_the_document(shard_documents, tokenizer_file, tmp_path, monkeypatch):
    class Beyond:
        vocab_size, end_of_text = 300, 0

        def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
            return [np.array([5000 if text == "a" else 1]) for text in texts]

    monkeypatch.setattr(tokenizing, "_loaded", lambda file, content: Beyond())
    side = shard_documents([["xyz", "a"]], tmp_path)
    with pytest.raises(DataError, match="document 0001: token id 5000 is outside"):
        write_shards(tokenizer_file, {"train": side}, Workspace(tmp_path, Serial(), Silent()))


def test_a_process_holds_one_tokenizer_however_many_shards_it_encodes(shards_of, tiny_corpus):
    """Each knows thousands of words, and would be held until Python looks for cycles, which is seldom."""
    gc.collect()
    gc.disable()
    try:
        before = tokenizers_held()
        shards_of([[text] for text in tiny_corpus])
        assert tokenizers_held() - before <= 2  # the workers', and the one that the manifest tells of
    finally:
        gc.enable()


def tokenizers_held() -> int:
    return sum(type(held) is BackendTokenizer for held in gc.get_objects())


@pytest.mark.parametrize("damage", [lambda path: path.write_text("{}"), lambda path: path.unlink()])
def test_a_tokenizer_that_is_not_what_was_trained_is_refused(shard_documents, tmp_path, damage):
    train = shard_documents([["ab " * 50]], tmp_path)
    arguments = ({"vocab_size": 260}, train, Workspace(tmp_path, Serial(), Silent()))
    trainer = BytePairEncoding(vocab_size=260, splitting="gpt2", sample_bytes=100)
    damage(train_tokenizer(trainer, *arguments))
    with pytest.raises(DataError, match=r"tokenizer\.json is missing or damaged"):
        train_tokenizer(trainer, *arguments)


def test_the_tokenizer_is_trained_once_on_the_beginning_of_the_training_text(shard_documents, tmp_path):
    train = shard_documents([["ab " * 50, "cd " * 50]], tmp_path)
    at = Workspace(tmp_path, Serial(), Silent())
    trainer = BytePairEncoding(vocab_size=260, splitting="gpt2", sample_bytes=100)
    path = train_tokenizer(trainer, {"vocab_size": 260}, train, at)
    assert len(load(path).encode("ab ab ab")) < 8
    assert len(load(path).encode("cd cd cd")) == 8
    written = path.stat().st_mtime_ns
    assert train_tokenizer(trainer, {"vocab_size": 260}, train, at) == path
    assert path.stat().st_mtime_ns == written
    assert train_tokenizer(trainer, {"vocab_size": 261}, train, at) != path
