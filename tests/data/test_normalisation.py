import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.normalisation import Normalise

CONTROLS = {chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]} - {"\t", "\n"}
pieces = st.sampled_from(
    ["\r\n", "\r", "\n", " ", "\t", "\0", "\x85", "e", "\u0301", "ﬁ", "\u00a0", "か", "\u3099", "def"]
)
texts = st.text() | st.lists(pieces).map("".join)
forms = st.sampled_from(["NFC", "NFKC", "none"])


def normalise(*texts: str, form: str = "NFC") -> StageOutput:
    rows = [
        {"id": str(number), "text": text, "source": "s", "source_id": "r", "meta": "{}"}
        for number, text in enumerate(texts)
    ]
    return Normalise(unicode_form=form)(pa.Table.from_pylist(rows, schema=DOCUMENT))


def kept(*texts: str, form: str = "NFC") -> list[str]:
    return normalise(*texts, form=form).kept["text"].to_pylist()


@settings(deadline=None)
@given(texts, forms)
def test_normalising_twice_changes_nothing(text, form):
    once = kept(text, form=form)
    assert kept(*once, form=form) == once


@settings(deadline=None)
@given(texts, forms)
def test_what_is_kept_is_normal_visible_and_free_of_control_characters(text, form):
    for result in kept(text, form=form):
        assert not CONTROLS & set(result)
        assert result == result.rstrip() != ""
        assert result.split("\n")[0].strip()
        assert form == "none" or unicodedata.is_normalized(form, result)


@settings(deadline=None)
@given(st.lists(texts, max_size=5))
def test_every_document_is_kept_or_dropped_as_it_was(documents):
    output = normalise(*documents)
    ids = output.kept["id"].to_pylist() + output.dropped["id"].to_pylist()
    assert sorted(ids) == [str(number) for number in range(len(documents))]
    assert output.kept.schema == DOCUMENT
    for row in output.dropped.to_pylist():
        assert row["text"] == documents[int(row["id"])]
        assert row["rule"] == "empty"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree"),
        ("\n \t\n    if x:\n\tpass  \n\n", "    if x:\n\tpass"),
        ("a  \n\n\n  b", "a  \n\n\n  b"),
        ("\ufb01 e\u0301", "\ufb01 \u00e9"),
        ("e\0\u0301", "\u00e9"),
        ("\r\0\n x", " x"),
    ],
)
def test_normalised_text(text, expected):
    assert kept(text) == [expected]


def test_nfkc_folds_what_only_looks_different_and_none_leaves_it():
    assert kept("\ufb01 \uff21", form="NFKC") == ["fi A"]
    assert kept("e\u0301", form="none") == ["e\u0301"]


def test_control_characters_are_counted():
    assert normalise("a\0\0b\x0c", "\x1b[1m", "\t\r\n.").counters == {"control_characters": 4}


def test_documents_without_visible_text_are_dropped():
    output = normalise("", " \r\n\t", "\0\0", "\u3000", "x")
    assert output.dropped["id"].to_pylist() == ["0", "1", "2", "3"]
    assert set(output.dropped["rule"].to_pylist()) == {"empty"}
