import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import cli, config
from pretrain.data.documents import DOCUMENT
from pretrain.data.filters import gopher_quality
from pretrain.data.filters.english_words import word_table
from pretrain.data.filters.gopher_quality import GopherQuality
from pretrain.data.filters.punctuation import PUNCTUATION
from pretrain.errors import ConfigError

STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]
PAPER = {
    "words": "fast",
    "min_words": 50,
    "max_words": 100_000,
    "min_mean_word_length": 3,
    "max_mean_word_length": 10,
    "max_hashes_per_word": 0.1,
    "max_ellipses_per_word": 0.1,
    "max_bullet_lines": 0.9,
    "max_ellipsis_lines": 0.3,
    "min_words_with_letter": 0.8,
    "min_stop_words": 2,
    "stop_words": STOP_WORDS,
}
OFF = {name: value if name in ("words", "stop_words") else None for name, value in PAPER.items()}
PROSE = (
    "The walk begins at the harbour, where boats of every size lie side by side and gulls quarrel over scraps. Beyond "
    "the last warehouse a narrow path climbs between hedges until the town is out of sight, and those who have come "
    "with a stick will be glad of it. Nobody hurries here; that is what people come for."
)
PIECES = st.sampled_from(
    ["the", "of", "and", "cat", "a", "internationalisation", "#", "##", "...", "…", "3", "4,5", "!", "- ", "\n", "\n- ",
     "\n• ", "...\n", " ", " ", "\u2028", "it's", "猫", "\x85", "…\n"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=60).map("".join)


def dropped(*texts: str, **settings: object) -> dict[int, dict]:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    output = GopherQuality(**(PAPER | settings))(pa.Table.from_pylist(rows, schema=DOCUMENT))
    return {int(row["id"]): row for row in output.dropped.to_pylist()}


def literal(text: str, bounds: dict) -> tuple[str, float] | None:
    """The first rule that a document breaks, and the value, by the rules as written."""
    table = word_table([text], bounds["words"])
    items = [text[start:end] for start, end in zip(table.starts, table.ends, strict=True)]
    plain = [item for item in items if any(character not in PUNCTUATION for character in item)]
    number = max(len(items), 1)
    mean = sum(map(len, plain)) / max(len(plain), 1)
    lines = text.splitlines() or [""]
    found = [
        ("min_words", len(plain)),
        ("max_words", len(plain)),
        ("min_mean_word_length", mean),
        ("max_mean_word_length", mean),
        ("max_hashes_per_word", text.count("#") / number),
        ("max_ellipses_per_word", (text.count("...") + text.count("…")) / number),
        ("max_bullet_lines", sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)),
        ("max_ellipsis_lines", sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)),
        ("min_words_with_letter", sum(any(map(str.isalpha, item)) for item in items) / number),
        ("min_stop_words", len(set(items) & set(bounds["stop_words"]))),
    ]
    for rule, value in found:
        bound = bounds[rule]
        if bound is not None and (value < bound if rule.startswith("min") else value > bound):
            return rule, value
    return None


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), st.sampled_from(["fast", "letters"]), st.integers(0, 8))
def test_documents_are_judged_as_by_the_rules_as_written(texts, words, min_words):
    bounds = PAPER | {"words": words, "min_words": min_words}
    rows = dropped(*texts, **bounds)
    for number, text in enumerate(texts):
        expected = literal(text, bounds)
        assert (number in rows) == (expected is not None)
        if expected:
            assert (rows[number]["rule"], rows[number]["value"]) == (expected[0], pytest.approx(expected[1]))


@settings(deadline=None)
@given(TEXTS)
def test_every_rule_measures_what_it_says(text):
    for rule in set(OFF) - {"words", "stop_words"}:
        strict = OFF | {rule: 1 if rule == "max_words" or rule.startswith("min") else 0}
        row = dropped(text, **strict).get(0)
        assert (row and row["rule"]) == (literal(text, strict) or (None,))[0]


def test_prose_is_kept_and_each_rule_tells_its_reason():
    assert not dropped(PROSE)
    assert dropped("Hello there.")[0]["reason"] == "2 words; at least 50 are needed"
    assert dropped("one two three " * 40, max_words=100)[0]["reason"] == "120 words; at most 100 may be"
    assert "2.00 characters on average; at least 3" in dropped("ab cd " * 40)[0]["reason"]
    assert "12.00 characters on average; at most 10" in dropped("abcdefghijkl " * 60)[0]["reason"]
    assert dropped(PROSE.replace(" ", " # "))[0]["rule"] == "max_hashes_per_word"
    assert dropped(PROSE.replace(" ", "... "))[0]["rule"] == "max_ellipses_per_word"
    assert dropped("- " + PROSE.replace(", ", ",\n- ").replace(". ", ".\n- "))[0]["rule"] == "max_bullet_lines"
    assert dropped(PROSE.replace(". ", ". ...\n"))[0]["rule"] == "max_ellipsis_lines"
    assert dropped(PROSE + " 1 2 3" * 10)[0]["rule"] == "min_words_with_letter"
    reason = dropped(PROSE.upper())[0]["reason"]
    assert reason == "0 of the 8 stop words occur; at least 2 must"


def test_a_value_equal_to_the_bound_passes():
    assert not dropped("one two three", **(OFF | {"min_words": 3, "max_words": 3}))


def test_a_long_document_is_counted_in_pieces_as_at_once(monkeypatch):
    text = (PROSE + "\n") * 50
    whole = gopher_quality.count_words([text, "x y"], "fast", STOP_WORDS)
    monkeypatch.setattr(gopher_quality, "PIECE", 1000)
    parts = gopher_quality.count_words([text, "x y"], "fast", STOP_WORDS)
    assert [column.tolist() for column in vars(whole).values()] == [column.tolist() for column in vars(parts).values()]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x", "min_words"),
        ("", "min_words"),
        ("word " * 1000, "min_stop_words"),
        ("a" * 10_000_000, "min_words"),
        ("the cat " * 1_250_000, "max_words"),
        ("\n" * 1_000_000, "min_words"),
        ("猫" * 1_000_000, "min_words"),
    ],
)
def test_extreme_documents_are_judged(text, rule):
    assert dropped(text)[0]["rule"] == rule


@pytest.mark.parametrize("override", ["min_words=-1", "min_words_with_letter=1.5", "max_words=0", "words=nltk"])
def test_settings_out_of_range_are_refused(override):
    words = ["data=files", "data.paths=[a]", "data/recipe=gopher", f"data.stages.gopher_quality.{override}"]
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        config.check(cli._composed("data", words), config.DataConfig)


@pytest.mark.parametrize("bounds", [{"min_words": 7, "max_words": 6}, {"min_mean_word_length": 11}])
def test_bounds_that_cross_are_refused(bounds):
    with pytest.raises(ConfigError, match=r"is above max_(words|mean_word_length)=.* nothing would be kept"):
        dropped(PROSE, **bounds)
