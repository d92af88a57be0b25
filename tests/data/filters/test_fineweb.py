import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import cli, config
from pretrain.data.documents import DOCUMENT
from pretrain.data.filters.english_words import word_table
from pretrain.data.filters.fineweb import FineWeb
from pretrain.data.filters.punctuation import SENTENCE_ENDS
from pretrain.errors import ConfigError

PAPER = {
    "words": "fast",
    "min_lines_with_end_mark": 0.12,
    "allow_no_end_mark": False,
    "max_short_lines": 0.67,
    "short_line_length": 30,
    "max_duplicate_line_characters": 0.01,
    "max_newlines_per_word": 0.3,
}
PIECES = st.sampled_from(
    ["the cat ", "a line that has more than thirty characters", ".", "!", "。", "\n", "\n", " ", "x", "、", "।"]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)


def dropped(*texts: str, **settings: object) -> dict[int, dict]:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    output = FineWeb(**(PAPER | settings))(pa.Table.from_pylist(rows, schema=DOCUMENT))
    return {int(row["id"]): row for row in output.dropped.to_pylist()}


def literal(text: str, bounds: dict) -> tuple[str, float] | None:
    """The first rule that a document breaks, and the value, by the rules as written."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return "empty", 0
    ended = sum(line[-1] in SENTENCE_ENDS for line in lines) / len(lines)
    if ended < bounds["min_lines_with_end_mark"] and not (ended == 0 and bounds["allow_no_end_mark"]):
        return "min_lines_with_end_mark", ended
    short = sum(len(line) <= bounds["short_line_length"] for line in lines) / len(lines)
    if short > bounds["max_short_lines"]:
        return "max_short_lines", short
    repeated = sum(len(line) for place, line in enumerate(lines) if line in lines[:place])
    share = repeated / len(text.replace("\n", ""))
    if share > bounds["max_duplicate_line_characters"]:
        return "max_duplicate_line_characters", share
    feeds = text.count("\n") / max(len(word_table([text], bounds["words"]).starts), 1)
    return ("max_newlines_per_word", feeds) if feeds > bounds["max_newlines_per_word"] else None


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), st.fixed_dictionaries({
    "words": st.sampled_from(["fast", "letters"]), "allow_no_end_mark": st.booleans(),
    "min_lines_with_end_mark": st.sampled_from([0, 0.12, 0.5]), "max_short_lines": st.sampled_from([0.5, 0.67, 1]),
    "max_duplicate_line_characters": st.sampled_from([0.01, 0.3, 1]),
}))  # fmt: skip
def test_documents_are_judged_as_by_the_rules_as_written(texts, settings):
    rows = dropped(*texts, **settings)
    for number, text in enumerate(texts):
        expected = literal(text, PAPER | settings)
        assert (number in rows) == (expected is not None)
        if expected:
            assert (rows[number]["rule"], rows[number]["value"]) == (expected[0], pytest.approx(expected[1]))


def test_each_rule_tells_its_reason():
    long = "This line has more than thirty characters and no end"
    assert dropped(long)[0]["reason"] == "0.00% of the lines end in an end mark; at least 12% must"
    assert not dropped(long, allow_no_end_mark=True)
    assert dropped("Short.\nLines.\nOnly.")[0]["reason"] == (
        "100.00% of the lines have at most 30 characters; at most 67% may"
    )
    assert dropped(f"{long}.\n{long}.")[0]["rule"] == "max_duplicate_line_characters"
    assert (
        dropped("a.\n\n\nb.", max_short_lines=None)[0]["reason"] == "1.500 line feeds for each word; at most 0.3 may be"
    )
    nothing = dict.fromkeys(name for name in PAPER if name.startswith(("min", "max")))
    assert not dropped("a\na\na\na", **nothing)


def test_a_japanese_line_ends_in_its_own_full_stop():
    text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗い所にいた。"
    assert not dropped(text)


@pytest.mark.parametrize("text", ["x", "", "word " * 2_000_000, "a" * 10_000_000, "\n" * 10_000_000, "a\n" * 1_000_000])
def test_extreme_documents_are_judged(text):
    assert len(dropped(text)) == 1


@pytest.mark.parametrize("override", ["max_short_lines=1.1", "short_line_length=-1", "max_newlines_per_word=-0.1"])
def test_settings_out_of_range_are_refused(override):
    words = ["data=files", "data.paths=[a]", "data/recipe=fineweb", f"data.stages.fineweb.{override}"]
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        config.check(cli._composed("data", words), config.DataConfig)
