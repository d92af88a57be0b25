"""data=tokens: shards of ready ids are the shards that the texts would have given."""

import json

import numpy as np
import pytest

from pretrain.data import token_import
from pretrain.data.executors import Serial
from pretrain.data.shards import TokenStream, read_manifest
from pretrain.data.stages import Silent, Workspace
from pretrain.data.token_files import write_megatron, write_nanogpt
from pretrain.data.token_import import TokenFiles, import_tokens
from pretrain.data.tokenizing import write_shards
from pretrain.errors import ConfigError, DataError, UsageError
from pretrain.tokenizers.loading import load

EOT = 0


@pytest.fixture
def brought(tokenizer_file, tmp_path):
    """A function that imports files, and gives the streams of both sides."""

    def bring(*paths, validation=(), fraction=0.1, seed=1, tokenizer=tokenizer_file):
        sources = {"tokens": TokenFiles(paths=[str(path) for path in paths])}
        folder = import_tokens(
            sources,
            [str(path) for path in validation],
            tokenizer,
            fraction=fraction,
            seed=seed,
            workspace=Workspace(tmp_path / "data", Serial(), Silent()),
        )
        manifest = read_manifest(folder)
        streams = [TokenStream(folder, name, manifest) for name in ("train", "validation")]
        for stream in streams:
            stream.verify()
        return streams

    return bring


@pytest.fixture
def originals(shard_documents, tokenizer_file, tiny_corpus, tmp_path):
    """The streams of both sides as the pipeline writes them."""
    sides = {
        "train": shard_documents([tiny_corpus[:7], tiny_corpus[7:20]], tmp_path),
        "validation": shard_documents([tiny_corpus[20:]], tmp_path),
    }
    folder = write_shards(tokenizer_file, sides, Workspace(tmp_path, Serial(), Silent()))
    return [TokenStream(folder, name, read_manifest(folder)) for name in ("train", "validation")]


def tokens_of(stream):
    return stream.read(0, len(stream)).tolist()


def nanogpt(path, documents):
    np.array([token for document in documents for token in (*document, EOT)], "<u2").tofile(path)
    return path


@pytest.mark.parametrize("write", [write_nanogpt, write_megatron])
def test_exported_and_imported_again_the_streams_are_the_same(brought, originals, tmp_path, write):
    (tmp_path / "out").mkdir()
    files = [tmp_path / "out" / name for name in ("train.bin", "val.bin")]
    for stream, file in zip(originals, files, strict=True):
        write(stream, file)
    for imported in (brought(files[0], validation=files[1:]), brought(tmp_path / "out")):
        for stream, original in zip(imported, originals, strict=True):
            assert tokens_of(stream) == tokens_of(original)
            assert sum(shard.documents for shard in stream.shards) == sum(shard.documents for shard in original.shards)
        validation = imported[1]
        assert (validation.bytes, validation.characters, validation.words) == (
            originals[1].bytes,
            originals[1].characters,
            originals[1].words,
        )


def test_shards_are_cut_between_documents_and_join_to_the_whole(brought, tmp_path, monkeypatch):
    monkeypatch.setattr(token_import, "SHARD_TOKENS", 50)
    monkeypatch.setattr(token_import, "AT_ONCE", 8)
    documents = [list(range(1, 2 + number % 13)) for number in range(60)]
    train, _ = brought(nanogpt(tmp_path / "a.bin", documents), validation=[nanogpt(tmp_path / "b.bin", [[5]])])
    assert len(train.shards) > 5
    assert [ids.tolist() for ids in train.documents()] == documents
    assert tokens_of(train) == [EOT] + [token for document in documents for token in (*document, EOT)]


def test_a_share_of_the_documents_is_held_out_and_copies_never_part(brought, tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 200, 5).tolist() for _ in range(300)]
    train, validation = brought(nanogpt(tmp_path / "a.bin", documents + documents[:150]), fraction=0.3)
    held_out = {tuple(ids.tolist()) for ids in validation.documents()}
    kept = {tuple(ids.tolist()) for ids in train.documents()}
    assert not held_out & kept
    assert held_out | kept == {tuple(ids) for ids in documents}
    assert 60 < len(held_out) < 120
    assert sum(shard.documents for stream in (train, validation) for shard in stream.shards) == 450


@pytest.mark.parametrize("at_once", [10, 1 << 20])
def test_the_last_tenth_of_a_single_document_is_held_out(brought, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(token_import, "AT_ONCE", at_once)
    np.arange(1, 101, dtype="<u2").tofile(tmp_path / "a.bin")
    train, validation = brought(tmp_path / "a.bin")
    assert tokens_of(train) == [EOT, *range(1, 91), EOT]
    assert tokens_of(validation) == [EOT, *range(91, 101), EOT]


def test_two_documents_are_one_on_each_side(brought, tmp_path):
    train, validation = brought(nanogpt(tmp_path / "a.bin", [[1, 2], [3, 4]]), fraction=1e-6)
    assert sorted([tokens_of(train), tokens_of(validation)]) == [[EOT, 1, 2, EOT], [EOT, 3, 4, EOT]]


def test_what_was_imported_is_found_again_until_a_file_changes(brought, tmp_path):
    path = nanogpt(tmp_path / "a.bin", [[1, 2], [3, 4], [5, 6]])
    first = brought(path)[0]
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    assert brought(path)[0].folder == first.folder
    assert (first.folder / "manifest.json").stat().st_mtime_ns == written
    nanogpt(path, [[1, 2], [3, 4], [5, 7], [8]])
    assert brought(path)[0].folder != first.folder
    assert brought(path, seed=2)[0].folder != first.folder


@pytest.mark.parametrize("at_once", [1 << 20, 2])
def test_a_token_outside_the_vocabulary_names_document_and_file_and_leaves_nothing(
    brought, tmp_path, tokenizer_file, monkeypatch, at_once
):
    monkeypatch.setattr(token_import, "AT_ONCE", at_once)
    size = load(tokenizer_file).vocab_size
    path = nanogpt(tmp_path / "a.bin", [[1, 2, 3], [4, size, 5]])
    validation = nanogpt(tmp_path / "v.bin", [[1]])
    with pytest.raises(DataError) as error:
        brought(path, validation=[validation])
    assert f"document 1 of {path}: token id {size} is outside {size} ids" in str(error.value)
    assert not list((tmp_path / "data" / "tokens").rglob("manifest.json"))
    assert not list((tmp_path / "data" / "tokens").rglob(".*.tmp"))


@pytest.mark.parametrize("tokens", [[EOT], [EOT, EOT]])
def test_files_without_a_document_are_refused(brought, tmp_path, tokens):
    np.array(tokens, "<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match="hold no document"):
        brought(tmp_path / "a.bin")
    with pytest.raises(DataError, match="hold no document for validation"):
        brought(nanogpt(tmp_path / "b.bin", [[1], [2]]), validation=[tmp_path / "a.bin"])


def test_one_token_is_refused_for_nothing_is_left_to_hold_out(brought, tmp_path):
    np.array([5], "<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match="hold no document for train"):
        brought(tmp_path / "a.bin")


def test_paths_are_files_folders_patterns_and_megatrons_prefixes(tmp_path):
    for name in ("a.bin", "b.bin", "c.txt", "in/d.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\1\0")

    def names(path):
        return [file.name for file in TokenFiles(paths=[str(tmp_path / path)]).token_files()]

    assert names("a.bin") == ["a.bin"]
    assert names("") == ["a.bin", "b.bin"]
    assert names("*.bin") == ["a.bin", "b.bin"]
    assert names("**/*.bin") == ["a.bin", "b.bin", "d.bin"]
    assert names("a") == ["a.bin"]
    for missing in ("nothing.bin", "nothing", "*.none"):
        with pytest.raises(UsageError, match=r"does not exist, or has no \.bin file"):
            names(missing)


def test_token_files_do_not_mix_with_texts():
    with pytest.raises(ConfigError, match="do not mix with texts"):
        TokenFiles(paths=[]).files()


def test_checksums_are_kept_until_a_file_changes(brought, tmp_path):
    path = nanogpt(tmp_path / "a.bin", [[1, 2], [3, 4]])
    brought(path)
    kept = tmp_path / "data" / "token_files.json"
    content = json.loads(kept.read_text())
    assert list(content) == [str(path)]
    written = kept.stat().st_mtime_ns
    brought(path)
    assert kept.stat().st_mtime_ns == written
