import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from pretrain.tokenizers.spans import code_points
from pretrain.tokenizers.splitting import SPLITTINGS, with_short_runs

PARTS = [
    *"asSſtrelvdmK'\"  \n\r\t12½٣.!-é漢か々〇カーㇰ、\u3000\u00a0\u0301\u3099\u2028\u0085😀",
    "ll",
    "RE",
    "'s",
    "'Ve",
]
TEXT = st.lists(st.sampled_from(PARTS), max_size=20).map("".join) | st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module", params=SPLITTINGS)
def splitting(request):
    return SPLITTINGS[request.param]


def pieces(splitting, texts: list[str]) -> list[list[str]]:
    """The pieces of each text, cut where the arrays say."""
    points, borders = code_points(texts)
    starts = splitting.starts(points, borders).tolist()
    joined = "".join(texts)
    found = [joined[start:end] for start, end in zip(starts, [*starts[1:], len(joined)], strict=False)]
    return [
        [piece for start, piece in zip(starts, found, strict=True) if begin <= start < end]
        for begin, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)
    ]


def expected(splitting, text: str) -> list[str]:
    """The pieces by the library and its regular expression."""
    return [piece for piece, _ in pre_tokenizers.Split(Regex(splitting.pattern), "isolated").pre_tokenize_str(text)]


@given(texts=st.lists(TEXT, max_size=8))
@example(texts=["'", "s", "", " ", "\n", "a"])
@example(texts=["it's", "'slow'", "o'clock", "''s", " 's", "\n's", "a'LL've", "1's", "'ſ"])
@example(texts=["((hello", "(hello", " (hello", "a  b", "a \n b", "a.\n\n  b", "\t\tx", "12345678", "x\r\n"])
def test_pieces_are_those_of_the_regular_expression(splitting, texts):
    assert pieces(splitting, texts) == [expected(splitting, text) for text in texts]


def test_every_code_point_is_classed_as_the_library_does(splitting):
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    characters = [f"a{chr(point)}1{chr(point)}か{chr(point)}" for point in points]
    texts = ["".join(characters[start : start + 3000]) for start in range(0, 0x3400, 3000)]
    texts += ["".join(characters[start : start + 500]) for start in range(0x3400, len(characters), 40_000)]
    assert pieces(splitting, texts) == [expected(splitting, text) for text in texts]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("gpt2", "It's  12345 (x)\n", ["It", "'s", " ", " 12345", " (", "x", ")", "\n"]),
        ("gpt4", "It's  12345 (x)\n", ["It", "'s", " ", " ", "123", "45", " (", "x", ")\n"]),
        ("scripts", "東京タワーへ行った。", ["東京", "タワー", "へ", "行", "った", "。"]),
    ],
)
def test_splittings_by_hand(name, text, found):
    assert pieces(SPLITTINGS[name], [text]) == [found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a b\n\nc " + "d" * 1000, "a b\n\nc " + "d" * 1000),
        ("a " + "d" * 2001 + " e", "a " + "\n".join(["d" * 1000, "d" * 1000, "d"]) + " e"),
        ("a" + " \n" * 1000 + "b", "a" + " \n" * 500 + "b"),
    ],
)
def test_trainers_are_given_no_long_runs(text, found):
    assert with_short_runs(text) == found
