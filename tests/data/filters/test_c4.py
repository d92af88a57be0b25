import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import cli, config
from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.filters.c4 import C4
from pretrain.data.filters.sentences import count_sentences, sentences
from pretrain.errors import ConfigError

PAPER = {
    "words": "fast",
    "unit": "line",
    "remove_citations": True,
    "require_end_mark": True,
    "min_sentences": 5,
    "min_words_per_line": 3,
    "max_word_length": 1000,
    "drop_lorem_ipsum": True,
    "drop_curly_bracket": True,
    "remove_javascript": True,
    "remove_policy": True,
}
PHRASES = ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"]
PIECES = st.sampled_from(
    ["The cat sat", " on it.", "\n", "\n", " ", "Is it?", " Yes!", "...", "Lorem Ipsum", "{", "java", "[1]", "Script",
     "[edit]", "terms of", " use", "x" * 12, '"', "'", "\x85", "\u2028", "privacy Policy", "[", "]",
     "[citation needed]"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map("".join)


def run(*texts: str, **settings: object) -> StageOutput:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    return C4(**(PAPER | settings))(pa.Table.from_pylist(rows, schema=DOCUMENT))


def literal(text: str, bounds: dict) -> str | list[str]:
    """The lines that are left of a document, or the rule that drops it, by the rules as written."""
    kept: list[str] = []
    number = 0
    for raw in text.splitlines() if bounds["unit"] == "line" else sentences(text, "fast"):
        line = raw.strip()
        words = line.split()
        if bounds["max_word_length"] and any(len(word) > bounds["max_word_length"] for word in words):
            continue
        if bounds["remove_citations"]:
            line = re.sub(r"\[\d*]|\[edit]|\[citation needed]", "", line)
        if bounds["require_end_mark"] and (not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...")):
            continue
        if len(words) < (bounds["min_words_per_line"] or 0):
            continue
        if bounds["drop_lorem_ipsum"] and "lorem ipsum" in line.lower():
            return "lorem_ipsum"
        if bounds["remove_javascript"] and "javascript" in line.lower():
            continue
        if bounds["drop_curly_bracket"] and "{" in line:
            return "curly_bracket"
        if bounds["remove_policy"] and any(phrase in line.lower() for phrase in PHRASES):
            continue
        number += count_sentences([line], "fast")[0] if bounds["unit"] == "line" else 1
        kept.append(line)
    if bounds["min_sentences"] and number < bounds["min_sentences"]:
        return "min_sentences"
    return kept if any(kept) else "empty"


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=5), st.fixed_dictionaries({
    "unit": st.sampled_from(["line", "sentence"]), "remove_citations": st.booleans(),
    "require_end_mark": st.booleans(), "min_sentences": st.sampled_from([None, 1, 2, 5]),
    "min_words_per_line": st.sampled_from([None, 0, 2, 3]),
    "max_word_length": st.sampled_from([None, 10]), "drop_lorem_ipsum": st.booleans(),
    "drop_curly_bracket": st.booleans(),
    "remove_javascript": st.booleans(), "remove_policy": st.booleans(),
}))  # fmt: skip
def test_lines_and_documents_go_as_by_the_rules_as_written(texts, switches):
    bounds = PAPER | switches
    output = run(*texts, **bounds)
    expected = [literal(text, bounds) for text in texts]
    gap = "\n" if bounds["unit"] == "line" else " "
    assert [row["rule"] for row in output.dropped.to_pylist()] == [rule for rule in expected if isinstance(rule, str)]
    left = [gap.join(lines).strip() for lines in expected if isinstance(lines, list)]
    assert output.kept["text"].to_pylist() == left


def test_removed_lines_are_counted_by_their_rule_and_blank_ones_are_not():
    text = "\n".join(
        [
            "This is a sentence. It has two.",
            "",
            "Menu without an end",
            "Trailing off...",
            "Too short.",
            "Please enable JavaScript to go on.",
            "This site uses cookies, as all do.",
            f"A long {'word' * 300} is here.",
            "And a last one[1] that stays[edit]. Here! There?",
        ]
    )
    output = run(text)
    assert output.kept["text"].to_pylist() == [
        "This is a sentence. It has two.\nAnd a last one that stays. Here! There?"
    ]
    assert output.counters == {
        "lines_of_few_words": 1,
        "lines_on_javascript": 1,
        "lines_on_policy": 1,
        "lines_with_long_word": 1,
        "lines_without_end_mark": 2,
    }


def test_a_dropped_document_keeps_its_text_and_says_why():
    text = "Only one sentence is here."
    [row] = run(text).dropped.to_pylist()
    assert (row["text"], row["value"], row["threshold"]) == (text, 1, 5)
    assert row["reason"] == "1 sentences are left; at least 5 are needed"
    assert [row["rule"] for row in run("We have a { here.", "Lorem ipsum dolor sit.").dropped.to_pylist()] == [
        "curly_bracket",
        "lorem_ipsum",
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One. Two! Three? Four", 4),
        ('He said "no." Then he left.', 2),
        ("Mr. Smith of St. Ives saw Dr. Jones.", 1),
        ("It is 3.5 or so... and goes on.", 1),
        ("In the 1990s. Then.", 2),
        ("", 1),
        ("(a.)(b.)", 1),
    ],
)
def test_sentences_by_hand(text, number):
    assert count_sentences([text], "fast") == [number]
    pytest.importorskip("spacy", reason="spaCy is not installed")
    assert count_sentences([text], "spacy") == [number]


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_sentences_are_the_whole_text_and_counted_alike_alone_and_in_a_batch(texts):
    split = [sentences(text, "fast") for text in texts]
    assert ["".join(parts) for parts in split] == texts
    assert count_sentences(texts, "fast") == [len(parts) for parts in split]


@pytest.mark.parametrize("text", ["x", "word " * 2_000_000, "a" * 10_000_000, "\n" * 10_000_000, "a. " * 1_000_000])
def test_extreme_documents_are_judged(text):
    assert len(run(text).dropped) == 1


@pytest.mark.parametrize("override", ["min_sentences=-1", "max_word_length=0", "unit=page"])
def test_settings_out_of_range_are_refused(override):
    words = ["data=files", "data.paths=[a]", "data/recipe=c4", f"data.stages.c4.{override}"]
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        config.check(cli._composed("data", words), config.DataConfig)
