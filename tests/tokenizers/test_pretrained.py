"""Tokenizers that others trained: from files of each format, and from a hub that cannot be reached."""

import base64
import io
import json

import pytest
import tokenizers
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from pretrain.errors import ConfigError, DataError
from pretrain.tokenizers.bpe import BytePairEncoding
from pretrain.tokenizers.byte import byte_names
from pretrain.tokenizers.pretrained import Pretrained
from pretrain.tokenizers.tokenizer import END_OF_TEXT

TEXTS = ["The cat sat by the river.", "  two  spaces ", "吾輩は猫である。", "a\tb\nc", "½ ﬁ Ａ 🙂", "It's 12345", ""]


def read(path, revision=None):
    return Pretrained(path=str(path), revision=revision).train([])


def trained(tiny_corpus):
    return BytePairEncoding(vocab_size=400, splitting="gpt2", sample_bytes=10**6).train(tiny_corpus)


def ranks_file(tokenizer, path) -> None:
    """Write the tokens of a byte-pair encoding as a .tiktoken; ranks are ids less the end of text at 0."""
    byte_of = {name: byte for byte, name in enumerate(byte_names())}
    vocabulary = {name: token for name, token in tokenizer.backend.get_vocab().items() if name != END_OF_TEXT}
    lines = [
        base64.b64encode(bytes(byte_of[character] for character in name)) + f" {token - 1}".encode()
        for name, token in sorted(vocabulary.items(), key=lambda item: item[1])
    ]
    path.write_bytes(b"\n".join(lines))


def sentencepiece_model(tiny_corpus, **settings) -> bytes:
    model = io.BytesIO()
    size = {"vocab_size": 500, "hard_vocab_limit": settings["model_type"] == "bpe"}
    SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_corpus * 3), model_writer=model, minloglevel=2, **size, **settings
    )
    return model.getvalue()


def test_a_tokenizer_json_is_read_as_it_is(tiny_corpus, tmp_path):
    tokenizer = trained(tiny_corpus)
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path / "tokenizer.json", tmp_path):
        assert [read(path).encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_ranks_of_tiktoken_make_the_same_tokens(tiny_corpus, tmp_path):
    tokenizer = trained(tiny_corpus)
    ranks_file(tokenizer, tmp_path / "p50k_base.tiktoken")
    found = read(tmp_path / "p50k_base.tiktoken")
    texts = [*TEXTS, *tiny_corpus]
    assert [found.encode(text) for text in texts] == [[token - 1 for token in tokenizer.encode(t)] for t in texts]
    assert [found.decode(found.encode(text)) for text in texts] == texts
    assert (found.end_of_text, found.vocab_size) == (50256, 50257)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_a_model_of_sentencepiece_gives_its_ids(tiny_corpus, tmp_path, model_type, plain, rule):
    content = sentencepiece_model(
        tiny_corpus,
        model_type=model_type,
        byte_fallback=True,
        normalization_rule_name=rule,
        remove_extra_whitespaces=not plain,
        add_dummy_prefix=not plain,
    )
    (tmp_path / "a.model").write_bytes(content)
    theirs, ours = SentencePieceProcessor(model_proto=content), read(tmp_path / "a.model")
    texts = [*TEXTS, *tiny_corpus]
    assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]
    assert [ours.decode(ours.encode(text)) for text in texts] == [theirs.decode(theirs.encode(text)) for text in texts]
    assert ours.vocab_size == theirs.get_piece_size()
    assert ours.end_of_text == theirs.eos_id()


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_cut_model_is_refused(tiny_corpus, tmp_path, share):
    content = sentencepiece_model(tiny_corpus, model_type="unigram")
    (tmp_path / "a.model").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="is not a tokenizer"):
        read(tmp_path / "a.model")


@pytest.mark.parametrize("content", [b"", b"YQ== 0\n", b"not base64! 1\n", b"YQ==\n"])
def test_a_damaged_file_of_ranks_is_refused(tmp_path, content):
    (tmp_path / "a.tiktoken").write_bytes(content)
    with pytest.raises(DataError, match="is not a tokenizer"):
        read(tmp_path / "a.tiktoken")


def test_a_missing_file_or_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for name, words in (
        ("a.json", "does not exist"),
        (".", "is a folder without a tokenizer.json"),
        ("a.txt", "is none of"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(tmp_path / name)


def test_a_repository_that_cannot_be_reached_is_named_with_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="does not hold the tokenizer of no-one/nothing"):
        read("no-one/nothing")


def test_another_content_at_the_same_path_is_another_tokenizer(tiny_corpus, tmp_path):
    path = tmp_path / "tokenizer.json"
    trained(tiny_corpus).save(path)
    first = Pretrained(path=str(path), revision=None).fingerprint()
    path.write_text(path.read_text().replace("\n", ""))
    assert Pretrained(path=str(path), revision=None).fingerprint() != first


def test_ranks_whose_name_tells_another_splitting_are_another_tokenizer(tiny_corpus, tmp_path):
    paths = [tmp_path / f"{name}.tiktoken" for name in ("mine", "ours", "gpt2", "r50k_base", "cl100k_base")]
    for path in paths:
        ranks_file(trained(tiny_corpus), path)
    told = [Pretrained(path=str(path), revision=None).fingerprint() for path in paths]
    assert told[0] == told[1]
    assert told[2] == told[3]
    assert len(set(told)) == 3


def test_a_file_that_cuts_or_fills_up_texts_loses_none(tiny_corpus, tmp_path):
    tokenizer = trained(tiny_corpus)
    other = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    other.enable_truncation(4)
    other.enable_padding(length=50)
    other.save(str(tmp_path / "tokenizer.json"))
    found = read(tmp_path)
    assert [found.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert [found.decode(ids.tolist()) for ids in found.encode_batch(TEXTS)] == TEXTS


def test_an_old_file_that_does_not_name_its_model_is_read(tiny_corpus, tmp_path):
    tokenizer = trained(tiny_corpus)
    settings = json.loads(tokenizer.backend.to_str())
    del settings["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    assert [read(tmp_path).encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_a_vocabulary_that_leaves_ids_out_counts_them(tiny_corpus, tmp_path):
    settings = json.loads(trained(tiny_corpus).backend.to_str())
    settings["model"]["vocab"]["a"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    found = read(tmp_path)
    assert found.vocab_size == 70_001
    assert found.encode_batch(["a"])[0].tolist() == found.encode("a") == [70_000]
