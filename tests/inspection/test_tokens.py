import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.inspection.tokens import count_tokens, longest_tokens, partial_characters, token_texts
from pretrain.tokenizers.bpe import BytePairEncoding
from pretrain.tokenizers.byte import ByteTokenizer
from pretrain.tokenizers.characters import Characters


@pytest.fixture(scope="module", params=["bpe", "byte", "char"])
def tokenizer(request, tiny_corpus):
    kinds = {
        "bpe": BytePairEncoding(vocab_size=400, splitting="gpt2", sample_bytes=10**6),
        "char": Characters(min_count=1, sample_bytes=10**6),
    }
    return kinds[request.param].train(tiny_corpus) if request.param in kinds else ByteTokenizer()


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_parts_of_a_text_are_the_text_and_their_ids_its_ids(tokenizer, text):
    parts = token_texts(tokenizer, text)
    assert [token for _, ids in parts for token in ids] == tokenizer.encode(text)
    if "\ufffd" not in text:
        assert "".join(part for part, _ in parts) == text


def test_a_character_of_several_tokens_is_one_part(tokenizer):
    parts = token_texts(tokenizer, "a🦀b")
    assert [part for part, _ in parts] == ["a", "🦀", "b"]
    assert [len(ids) for _, ids in parts] == [1, 4, 1]


def test_bytes_a_token_and_byte_fallback_by_group():
    tokenizer = Characters(min_count=1, sample_bytes=100).train(["abc"])
    found = count_tokens(tokenizer, [(("x", "all"), "abca"), (("y", "all"), "é"), (("z",), "")])
    assert found.groups["x"].row() == {
        "documents": 1,
        "bytes": 4,
        "tokens": 4,
        "bytes_per_token": 1.0,
        "characters_per_token": 1.0,
        "byte_fallback": 0.0,
    }
    assert found.groups["y"].row()["byte_fallback"] == 1.0
    assert found.groups["all"].row()["byte_fallback"] == 2 / 6
    assert found.groups["z"].row()["bytes_per_token"] is None
    assert found.counts[tokenizer.encode("a")[0]] == 2


def test_only_bytes_above_ascii_are_parts_of_characters():
    assert partial_characters(ByteTokenizer()).sum() == 128


def test_the_longest_tokens_come_first(tiny_corpus):
    tokenizer = BytePairEncoding(vocab_size=300, splitting="gpt2", sample_bytes=10**6).train(["the valley " * 100])
    found = longest_tokens(tokenizer, count_tokens(tokenizer, [((), "a valley")]).counts, 2)
    assert [(text, count) for _, text, count in found] == [(" valley", 1), (" val", 0)]
