"""What holds for every tokenizer. One test runs over all of them: every file in configs/tokenizer that is trained."""

import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from pretrain import cli, config
from pretrain.errors import DataError
from pretrain.tokenizers import backend, word_cache
from pretrain.tokenizers import splitting as splitting_module
from pretrain.tokenizers.bpe import BytePairEncoding
from pretrain.tokenizers.byte import ByteTokenizer
from pretrain.tokenizers.characters import Characters
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.tokenizer import END_OF_TEXT

FOLDER = Path(__file__).parents[2] / "configs" / "tokenizer"
NAMES = sorted({path.stem for path in FOLDER.glob("*.yaml")} - {"gpt2", "pretrained"})  # see test_pretrained.py
LEARN_SPLITTINGS = [f"{name} splitting={splitting}" for name in ("bpe", "unigram") for splitting in ("gpt4", "scripts")]
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))  # every character but surrogates, which UTF-8 cannot hold


def trained(name, texts):
    name, *changes = name.split()
    changes = [f"tokenizer.{change}" for change in changes]
    settings = cli._composed("train", [f"tokenizer={name}", *changes])["tokenizer"]
    return config.build(config.Part(settings)).train(texts)


@pytest.fixture(scope="module", params=[*NAMES, *LEARN_SPLITTINGS])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name, tiny_corpus):
    return trained(name, tiny_corpus)


@given(text=UNICODE)
@example("")
@example(" ")
@example("  two  spaces\t\ttabs\r\nand\n\n\nlines ")
@example("🙂👩‍👩‍👧‍👦🇯🇵")
@example("e\u0301 and \u00e9, \u0e01\u0e33, \u202eright to left\u202c")
@example("".join(map(chr, range(256))))
@example("\ufeff\ufffd\ufffe\U0010ffff\0")
@example("吾輩は猫である。名前はまだ無い。한국어 中文")
@example("Ġ Ċ are letters too")
@example(f"{END_OF_TEXT} and <|endoftext")
@example("a" * 5000)
def test_decoding_what_is_encoded_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(texts=st.lists(UNICODE, max_size=5))
def test_a_batch_is_encoded_as_its_texts_are(tokenizer, texts):
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert all(ids.dtype == np.uint16 for ids in batch)


@given(text=UNICODE)
@example(END_OF_TEXT)
def test_ids_are_inside_the_vocabulary_and_no_end_of_text(tokenizer, text):
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.encode(text))
    assert tokenizer.end_of_text not in tokenizer.encode(text)
    assert 0 <= tokenizer.end_of_text < tokenizer.vocab_size


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a{END_OF_TEXT}b", f" {END_OF_TEXT} " * 3])
def test_the_text_of_a_special_token_is_plain_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert len(ids) > text.count(END_OF_TEXT)
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == text


def test_an_end_of_text_in_the_training_text_does_not_become_a_token(name):
    tokenizer = trained(name, [f"{END_OF_TEXT} a {END_OF_TEXT}"] * 50)
    assert tokenizer.end_of_text not in tokenizer.encode(END_OF_TEXT)
    assert tokenizer.decode(tokenizer.encode(END_OF_TEXT)) == END_OF_TEXT


def test_the_end_of_text_decodes_to_nothing(tokenizer):
    ids = [tokenizer.end_of_text, *tokenizer.encode("one"), tokenizer.end_of_text]
    assert tokenizer.decode(ids) == "one"
    assert tokenizer.decode([tokenizer.end_of_text]) == tokenizer.decode([]) == ""


def test_bytes_that_are_not_utf8_decode_to_the_replacement_character(tokenizer):
    ids = tokenizer.encode("\U0001f980")
    assert len(ids) == 4  # too rare for a token
    for length in (1, 2, 3):
        assert set(tokenizer.decode(ids[:length])) == {"\ufffd"}
    assert tokenizer.decode([*ids[:1], *tokenizer.encode("a")]) == "\ufffda"


def test_every_ascii_character_is_a_token_of_its_own(tokenizer):
    ids = {tuple(tokenizer.encode(chr(character))) for character in range(128)}
    assert len(ids) == 128
    assert all(len(token) == 1 for token in ids)


def test_the_library_reads_the_file_and_gives_the_same_ids(tokenizer, tiny_corpus, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.encode_special_tokens = True
    texts = [*tiny_corpus, "", END_OF_TEXT, "<0x41> <0xE3>", "🙂 e\u0301 \0 한국어", "吾輩は 'S 12345\n\n x"]
    assert [library.encode(text).ids for text in texts] == [tokenizer.encode(text) for text in texts]
    assert [library.decode(tokenizer.encode(text)) for text in texts] == texts
    assert library.get_vocab_size() == tokenizer.vocab_size
    assert library.token_to_id(END_OF_TEXT) == tokenizer.end_of_text


def test_saving_and_loading_gives_the_same_ids(tokenizer, tiny_corpus, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load(path)
    texts = [*tiny_corpus, END_OF_TEXT, "🙂 e\u0301 \0 한국어"]
    assert [loaded.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert (loaded.vocab_size, loaded.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_training_is_deterministic(name, tokenizer, tiny_corpus, tmp_path):
    tokenizer.save(tmp_path / "first.json")
    trained(name, tiny_corpus).save(tmp_path / "second.json")
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()


def test_training_on_nothing_leaves_the_bytes(name):
    tokenizer = trained(name, [])
    assert tokenizer.vocab_size == (354 if "unigram" in name else 257)
    assert tokenizer.decode(tokenizer.encode("吾輩 🙂")) == "吾輩 🙂"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_cut_file_is_refused(tokenizer, tmp_path, share):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
        load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a tokenizer"):
        load(tmp_path / "nowhere.json")


def test_a_tokenizer_without_an_end_of_text_is_refused(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    path.write_text(path.read_text("utf-8").replace(END_OF_TEXT, "<|other|>"), "utf-8")
    with pytest.raises(DataError, match=r"no token <\|endoftext\|>|is not a tokenizer"):
        load(path)


def byte_pairs(vocab_size: int, splitting="gpt2") -> BytePairEncoding:
    return BytePairEncoding(vocab_size=vocab_size, splitting=splitting, sample_bytes=10**6)


def test_merges_make_frequent_words_short(tiny_corpus):
    byte = byte_pairs(257).train([])
    pairs = byte_pairs(300).train(["the valley " * 100])
    assert byte.vocab_size == 257
    assert len(byte.encode("the valley")) == 10
    assert len(pairs.encode("the valley")) == 2
    assert len(pairs.encode(tiny_corpus[1])) < len(byte.encode(tiny_corpus[1])) == len(tiny_corpus[1].encode())


def test_the_vocabulary_is_as_large_as_asked_where_the_text_suffices(tiny_corpus):
    assert byte_pairs(300).train(tiny_corpus).vocab_size == 300
    assert 257 < byte_pairs(10**5).train(tiny_corpus).vocab_size < 1000


def test_the_characters_of_a_vocabulary_are_those_that_occur_often_enough():
    tokenizer = Characters(min_count=2, sample_bytes=10**6).train(["abca", "cあいあ"])
    assert tokenizer.characters == ["a", "c", "あ"]
    assert tokenizer.vocab_size == 3 + 256 + 1
    assert tokenizer.encode("aあb") == [257, 259, 1 + ord("b")]


@given(content=st.binary())
def test_the_byte_tokenizer_holds_every_sequence_of_bytes(content):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(content)) == content


@pytest.mark.parametrize("splitting", ["gpt2", "gpt4", "scripts"])
def test_the_table_of_words_gives_the_ids_of_the_library(splitting, tiny_corpus, monkeypatch):
    monkeypatch.setattr(word_cache, "MOST", 50)  # so that it forgets while it works
    tokenizer = byte_pairs(400, splitting).train(tiny_corpus)
    assert tokenizer._words is not None
    long = ["x" * 500 + " y", "吾輩は猫である" * 50]
    for texts in (tiny_corpus, tiny_corpus[::-1], [], [""], long, ["", *long, "", tiny_corpus[0]]):
        assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]


def test_where_the_table_would_give_other_ids_the_library_encodes(tiny_corpus, monkeypatch):
    wrong = splitting_module.SPLITTINGS["gpt4"].cut
    pattern = splitting_module.SPLITTINGS["gpt2"]
    monkeypatch.setitem(
        splitting_module.SPLITTINGS, "gpt2", splitting_module.Splitting(pattern.pattern, pattern.classes, wrong)
    )
    tokenizer = byte_pairs(400).train(tiny_corpus)
    assert tokenizer._words is None
    assert [ids.tolist() for ids in tokenizer.encode_batch(tiny_corpus)] == [tokenizer.encode(t) for t in tiny_corpus]


def test_long_texts_are_cut_where_no_token_goes_across(tokenizer, tiny_corpus, monkeypatch):
    monkeypatch.setattr(backend, "PIECE", 50)
    text = "".join(tiny_corpus)
    assert tokenizer.encode_batch([text])[0].tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_a_text_that_is_one_long_run_takes_no_long_training(name):
    texts = [" " * 200_000, "\n" * 200_000, "a" * 200_000, "-" * 200_000, "吾輩" * 100_000]
    started = time.perf_counter()
    trained(f"{name} vocab_size=1000", texts)
    assert time.perf_counter() - started < 20
