"""Text that comes token by token: whole characters only, and nothing behind a stop string."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.sampling.text_stream import StopStrings, TextStream, before_stop, finished_text, without_half_character
from pretrain.tokenizers.byte import Bytes
from pretrain.tokenizers.characters import Characters
from pretrain.tokenizers.loading import load

TEXTS = ["The cat sat on the mat.\n\nAnd then", "吾輩は猫である。", "naïve 🙂🙂 café", "a\n\nb\n\nc", ""]
STOPS = st.lists(
    st.sampled_from(["\n\n", "cat", "猫", "🙂", "は猫で", "aa", "aab", " ", "の"]), max_size=3, unique=True
)


@pytest.fixture(scope="module", params=["bpe", "byte", "char"])
def tokenizer(request, tokenizer_file):
    if request.param == "bpe":
        return load(tokenizer_file)
    if request.param == "byte":
        return Bytes().train([])
    return Characters(min_count=1, sample_bytes=10**6).train(["The cat sat on the mat.\n abc吾輩は"])


def streamed(tokenizer, ids, stop, cut=True):
    pieces: list[str] = []
    stream = TextStream(tokenizer.decode, stop, pieces.append)
    for token in ids:
        stream.hear(token)
    shown = list(pieces)
    stream.finish(cut=cut)
    return pieces, shown


def ids_of(tokenizer, data):
    """Some text's ids, cut anywhere, or any ids at all."""
    whole = tokenizer.encode("".join(data.draw(st.lists(st.sampled_from(TEXTS), max_size=3))))
    begin = data.draw(st.integers(0, len(whole)))
    some = data.draw(st.lists(st.integers(1, tokenizer.vocab_size - 1), max_size=4))
    return [token for token in whole[begin:] + some if token != tokenizer.end_of_text]


@settings(max_examples=60)
@given(data=st.data(), stop=STOPS, cut=st.booleans())
def test_the_pieces_together_are_the_finished_text(tokenizer, data, stop, cut):
    ids = ids_of(tokenizer, data)
    if stop:  # nothing is written behind one
        complete = StopStrings(stop, tokenizer.decode)
        size = next((size for size in range(1, len(ids) + 1) if complete(ids[:size])), None)
        ids, cut = ids[:size], cut and size is None
    pieces, _ = streamed(tokenizer, ids, stop, cut)
    assert "".join(pieces) == finished_text(tokenizer.decode(ids), stop, cut=cut)


@pytest.mark.parametrize("text", TEXTS[:3])
def test_what_is_shown_on_the_way_is_never_half_a_character(tokenizer, text):
    ids = tokenizer.encode(text)
    for size in range(len(ids) + 1):
        _, shown = streamed(tokenizer, ids[:size], [])
        assert text.startswith("".join(shown))
        assert finished_text(tokenizer.decode(ids[:size]), [], cut=True) == "".join(shown)


def test_a_character_is_shown_as_soon_as_it_is_whole(tokenizer):
    ids = tokenizer.encode("吾輩🙂")
    pieces, shown = streamed(tokenizer, ids, [])
    assert "".join(shown) == "吾輩🙂"
    assert len(pieces) >= 3 or len(ids) < 3


@settings(max_examples=40)
@given(data=st.data(), stop=STOPS.filter(bool))
@example(data=None, stop=["\n\n"])
def test_a_stop_string_is_noticed_with_the_token_that_completes_it(tokenizer, data, stop):
    ids = tokenizer.encode("ab\n\ncat") if data is None else tokenizer.encode(data.draw(st.sampled_from(TEXTS)))
    stops = StopStrings(stop, tokenizer.decode)
    for size in range(1, len(ids) + 1):
        found = any(text in tokenizer.decode(ids[:size]) for text in stop)
        assert stops(ids[:size]) == found
        if found:
            break


def test_text_ends_before_the_first_of_several_stop_strings():
    assert before_stop("one. two! three.", ["!", ".", "?"]) == "one"
    assert before_stop("one", ["!"]) == "one"
    assert before_stop("!", ["!"]) == ""
    assert before_stop("one", []) == "one"


def test_what_may_become_a_stop_string_waits_and_is_shown_when_it_does_not():
    pieces: list[str] = []
    stream = TextStream(lambda ids: "".join(map(chr, ids)), ["END"], pieces.append)
    for character in "xEENaEN":
        stream.hear(ord(character))
    assert "".join(pieces) == "xEENa"
    stream.finish(cut=False)
    assert "".join(pieces) == "xEENaEN"


def test_only_half_a_character_is_taken_away():
    half = "輩".encode()[:2].decode("utf-8", "replace")
    assert without_half_character("吾" + half) == "吾"
    assert without_half_character("吾") == "吾"
    assert without_half_character("") == ""
    assert finished_text("吾" + half, [], cut=False) == "吾" + half
