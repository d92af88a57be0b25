import builtins
import time
import unicodedata

import ftfy
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.normalisation import INVISIBLE, LINE_SEPARATORS, SPACES, Normalise, repaired
from pretrain.errors import ConfigError

CONTROLS = {chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]} - {"\t", "\n"}
pieces = st.sampled_from(
    ["\r\n", "\r", "\n", " ", "\t", "\0", "\x85", "e", "\u0301", "ﬁ", "\u00a0", "か", "\u3099", "def"]
)
texts = st.text() | st.lists(pieces).map("".join)
forms = st.sampled_from(["NFC", "NFKC", "none"])


def normalise(*texts: str, form: str = "NFC", **more: bool | float) -> StageOutput:
    rows = [
        {"id": str(number), "text": text, "source": "s", "source_id": "r", "meta": "{}"}
        for number, text in enumerate(texts)
    ]
    return Normalise(unicode_form=form, **more)(pa.Table.from_pylist(rows, schema=DOCUMENT))


def kept(*texts: str, form: str = "NFC", **more: bool | float) -> list[str]:
    return normalise(*texts, form=form, **more).kept["text"].to_pylist()


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


ENCODINGS = ["latin-1", "windows-1252", "macroman", "cp437", "windows-1251", "iso-8859-2"]
words = st.lists(
    st.sampled_from(["naïve ", "“quoted” ", "é", "à ", "日本語", "—", "Größe ", "мир", "…\n", "plain "]), max_size=8
)
odd = st.lists(
    st.sampled_from(
        ["\xa0", "\u3000", "\u2028", "\x0b", "\x85", "\xad", "\u200b", "\ufeff", "e", "\u0301", " ", "\n", "か"]
    )
).map("".join)


@st.composite
def misread(draw: st.DrawFn) -> str:
    """Text in UTF-8 that was decoded as something else, here and there."""
    lines = [draw(words.map("".join)) for _ in range(draw(st.integers(1, 3)))]
    codecs = [draw(st.sampled_from([*ENCODINGS, None])) for _ in lines]
    return "\n".join(
        line.encode().decode(codec, "replace") if codec else line for line, codec in zip(lines, codecs, strict=True)
    )


@settings(deadline=None)
@given(misread() | odd | texts, forms)
def test_repairing_and_folding_twice_changes_nothing(text, form):
    once = kept(text, form=form, repair_mojibake=True, fold_spaces=True)
    assert kept(*once, form=form, repair_mojibake=True, fold_spaces=True) == once


@settings(deadline=None, max_examples=300)
@given(misread())
def test_no_line_that_ftfy_would_repair_is_passed_over(text):
    assert repaired(text) == "\n".join(ftfy.fix_encoding(line) for line in text.split("\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schÃ¶n", "schön"),
        ("l’Ã©tÃ© Ã Paris", "l’été à Paris"),
        ("donâ€™t", "don’t"),
        ("日本語の文章".encode().decode("latin-1"), "日本語の文章"),
        ("\x93quoted\x94", "“quoted”"),
        ("Ã\0©", "é"),
        ("日本語の文章です。", "日本語の文章です。"),
        ("Ça va? 100 € à Zürich – “oui”", "Ça va? 100 € à Zürich – “oui”"),
    ],
)
def test_mojibake_is_repaired_and_good_text_is_not(text, expected):
    assert kept(text, repair_mojibake=True) == [expected]


def test_a_document_that_was_damaged_throughout_is_dropped_and_one_that_was_here_and_there_is_not():
    whole = "日本語の文章".encode().decode("latin-1")
    slightly = "x" * 100 + "donâ€™t"
    output = normalise(whole, slightly, repair_mojibake=True, max_mojibake=0.1)
    assert output.kept["text"].to_pylist() == ["x" * 100 + "don’t"]
    row = output.dropped.to_pylist()[0]
    assert (row["rule"], row["text"]) == ("mojibake", whole)
    assert row["value"] == pytest.approx(2 / 3)
    assert row["reason"] == "the repair of mojibake took 66.67% of the characters away; at most 10% may"
    assert output.counters["mojibake_characters"] == 12 + 2


@settings(deadline=None)
@given(odd)
def test_nothing_unusual_or_unseen_is_left_where_spaces_are_folded(text):
    for result in kept(text, fold_spaces=True):
        assert not any(pattern.search(result) for pattern in (SPACES, INVISIBLE, LINE_SEPARATORS))


def test_spaces_are_folded_and_the_joiners_stay():
    assert kept("a\u3000b\u2009c\u2028d\x0be\u200bf\u00adg", fold_spaces=True) == ["a b c\nd\nefg"]
    assert kept("\u0646\u200c\u0645 \U0001f468\u200d\U0001f469", fold_spaces=True) == [
        "\u0646\u200c\u0645 \U0001f468\u200d\U0001f469"
    ]
    assert kept("a\u3000b") == ["a\u3000b"]


def test_without_ftfy_one_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "ftfy":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"^repair_mojibake needs pip install 'pretrain\[filters\]'$"):
        Normalise(unicode_form="NFC", repair_mojibake=True)
    assert kept("a") == ["a"]


def test_the_key_depends_on_ftfy_only_where_it_is_used():
    assert "ftfy" not in Normalise(unicode_form="NFC").libraries
    assert "ftfy" in Normalise(unicode_form="NFC", repair_mojibake=True).libraries


@pytest.mark.parametrize("piece", ["a", "あ", "Ã©", "\u3000", "e\u0301", "\n", "â€™ some text " * 9 + "\n", "ＡＢＣ"])
def test_ten_million_characters_take_seconds(piece):
    started = time.perf_counter()
    normalise(piece * (10_000_000 // len(piece)), form="NFKC", repair_mojibake=True, fold_spaces=True)
    assert time.perf_counter() - started < 60
