import time
from functools import lru_cache

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.filters.code import Code, format_of, says_generated, visible_text
from pretrain.errors import ConfigError

THRESHOLDS = {
    "max_line": 1000,
    "max_mean_line": 100,
    "min_alphanumeric": 0.25,
    "min_alphabetic": 0.25,
    "generated_lines": 5,
    "xml_characters": 100,
    "min_html_text": 100,
    "min_html_share": 0.2,
    "min_data": 50,
    "max_data": 5000,
}
OFF = dict.fromkeys(THRESHOLDS)
CODE = 'def area(width, height):\n    """Of a rectangle."""\n    return width * height\n'
PAGE = "<!DOCTYPE html>\n<html><head><script>var a = 1;</script></head><body><p>%s</p></body></html>"

texts = st.lists(st.sampled_from("aé1あ \t\n\r{;漢"), max_size=60).map("".join) | st.text(max_size=30)


@lru_cache(maxsize=4)
def built(thresholds: tuple) -> Code:
    return Code(**(THRESHOLDS | dict(thresholds)))


def judge(*texts: str, name: str = "a.py", **thresholds: float | None) -> StageOutput:
    rows = [
        {"id": str(n), "text": text, "source": "s", "source_id": name, "meta": "{}"} for n, text in enumerate(texts)
    ]
    return built(tuple(thresholds.items()))(pa.Table.from_pylist(rows, schema=DOCUMENT))


def rule_of(text: str, name: str = "a.py", **thresholds: float | None) -> str | None:
    return next((row["rule"] for row in judge(text, name=name, **thresholds).dropped.to_pylist()), None)


def literal(text: str) -> dict[str, float]:
    """What the first rules measure, as they are written."""
    lines = text.split("\n")
    letters, digits = sum(map(str.isalpha, text)), sum(map(str.isdigit, text))
    return {
        "max_line": max(map(len, lines)),
        "max_mean_line": sum(map(len, lines)) / len(lines),
        "min_alphabetic": letters / max(1, len(text)),
        "min_alphanumeric": (letters + digits) / max(1, len(text)),
    }


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("aé1あ \t\n\r{;"), max_size=60).map("".join), max_size=6))
def test_lines_and_letters_are_measured_as_a_count_of_each_text_does(batch):
    for rule in ("max_line", "max_mean_line", "min_alphanumeric", "min_alphabetic"):
        threshold = 10 if rule == "max_line" else 2.5 if rule == "max_mean_line" else 0.5
        expected = [literal(text)[rule] for text in batch]
        broken = [value for value in expected if (value > threshold if rule.startswith("max") else value < threshold)]
        found = judge(*batch, **(OFF | {rule: threshold})).dropped.to_pylist()
        assert [row["value"] for row in found] == pytest.approx(broken)
        assert {row["threshold"] for row in found} <= {threshold}


@settings(deadline=None)
@given(st.lists(texts, max_size=8))
def test_a_file_is_judged_alike_alone_and_in_any_batch(batch):
    alone = [reason for text in batch for reason in judge(text).dropped["reason"].to_pylist()]
    assert judge(*batch).dropped["reason"].to_pylist() == alone


def test_good_code_is_kept():
    assert rule_of(CODE) is None


@pytest.mark.parametrize(
    ("rule", "text", "name"),
    [
        ("line", CODE + "x = " + "1" * 1000, "a.py"),
        ("mean_line", "a" * 500 + "\n" + "b" * 500, "a.py"),
        ("alphanumeric", "{};\n" * 50 + "a", "a.c"),
        ("alphabetic", "1, 2, 3, 4\n" * 20, "a.py"),
        ("generated", "/* This file was automatically generated. */\n" + CODE, "a.c"),
        ("generated", "# AUTO-GENERATED from x\n" + CODE, "a.py"),
        ("xml", '<?xml version="1.0"?>\n<project><name>pretrain</name></project>', "pom.txt"),
        ("html_text", PAGE % "Too short to be of use.", "index.html"),
        ("html_share", PAGE % ("word " * 30 + '<img src="picture.png" alt="of something">\n' * 20), "index.html"),
        ("data", '{"name": "pretrain"}', "a.json"),
        ("data", "- some item\n" * 500, "a.yaml"),
    ],
)
def test_each_rule_drops_what_it_is_for(rule, text, name):
    assert rule_of(text, name) == rule
    assert rule_of(text, name, **OFF) is None


def test_what_the_rules_are_not_for_is_kept():
    assert rule_of('<?xml version="1.0"?>\n<stylesheet><template name="a"/></stylesheet>', "style.xsl") is None
    assert rule_of(CODE * 3 + "# automatically generated\n") is None
    assert rule_of(CODE + "x = '<html>'\n") is None
    assert rule_of(PAGE % ("A sentence that somebody may want to read.\n" * 5), "index.html") is None


def test_the_reason_tells_value_and_threshold():
    row = judge("{};\n" * 50 + "a").dropped.to_pylist()[0]
    assert (row["value"], row["threshold"]) == (1 / 201, 0.25)
    assert row["reason"] == "0.50% of the characters are letters and digits; at least 25% must be"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("  <!doctype HTML><p>", "", "html"),
        ("<html>", "a.txt", "html"),
        ("<htmlx>", "a.txt", "code"),
        ("", "dir/A.HTM", "html"),
        ("{}", "b.yml", "data"),
        ("{}", "json", "code"),
    ],
)
def test_the_format_is_told_by_name_and_beginning(text, name, expected):
    assert format_of(text, name) == expected


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        ("a <b>c</b> d", 3),
        ("<script>if (a > b) {}</script>x<style>p {}</style>y", 2),
        ("<script>never closed", 0),
        ("1 < 2", 3),
        ("", 0),
    ],
)
def test_the_text_that_a_reader_sees(page, seen):
    assert visible_text(page) == seen


def test_only_the_first_lines_may_say_that_a_file_is_generated():
    assert says_generated("a\nb autogenerated\nc", 2)
    assert not says_generated("a\nb\nautogenerated", 2)
    assert says_generated("autogenerated", 5)
    assert not says_generated("", 1)


@pytest.mark.parametrize("text", ["", "a", "\n", "{", "あ"])
def test_a_file_of_one_character_is_judged(text):
    assert rule_of(text) in (None, "alphanumeric")


@pytest.mark.parametrize("piece", [CODE, "a", "\n", "<", "<a", "<!--", "<script>", "word "])
def test_ten_million_characters_take_seconds(piece):
    text = "<html>" + piece * (10_000_000 // len(piece))
    started = time.perf_counter()
    judge(text, max_line=None, max_mean_line=None, min_alphanumeric=None, min_alphabetic=None)
    assert time.perf_counter() - started < 20


def test_bounds_that_cross_are_refused():
    with pytest.raises(ConfigError, match="min_data=9 is above max_data=8"):
        judge("x", min_data=9, max_data=8)
