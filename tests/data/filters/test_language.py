import builtins
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.documents import DOCUMENT, StageOutput
from pretrain.data.filters.language import UNKNOWN, Language, detected
from pretrain.errors import ConfigError

ENGLISH = "The river had risen in the night, and nobody in the village could say when the bridge would be safe again. "
JAPANESE = "夜のうちに川の水が増えて、橋がいつ渡れるようになるのか、村の誰にも分からなかった。"
GERMAN = "In der Nacht war der Fluss gestiegen, und niemand im Dorf konnte sagen, wann die Brücke wieder sicher sei. "


def judge(*texts: str, languages=("ja",), min_confidence: float = 0.5) -> StageOutput:
    rows = [{"id": str(n), "text": text, "source": "s", "source_id": "r", "meta": "{}"} for n, text in enumerate(texts)]
    stage = Language(languages=list(languages), min_confidence=min_confidence)
    return stage(pa.Table.from_pylist(rows, schema=DOCUMENT))


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (JAPANESE, "ja"), (GERMAN, "de")])
def test_the_language_of_a_sentence_is_recognised(text, language):
    found, share = detected(text)[0]
    assert found == language
    assert share > 0.9


def test_only_the_languages_named_are_kept_and_the_reason_names_the_other():
    output = judge(ENGLISH, JAPANESE, GERMAN, "!?", languages=["ja", "en"])
    assert output.kept["text"].to_pylist() == [ENGLISH, JAPANESE]
    german, none = output.dropped.to_pylist()
    assert german["rule"] == "language"
    assert german["reason"].startswith("de, with confidence 0.9")
    assert german["reason"].endswith("; 0% of the text is en or ja, at least 50% must be")
    assert none["reason"].startswith("no language was recognised; ")


@settings(deadline=None)
@given(st.lists(st.sampled_from([ENGLISH, JAPANESE, GERMAN, "\n", "1 "]), max_size=12).map("".join), st.floats(0, 1))
def test_a_document_is_kept_if_and_only_if_enough_of_it_is_in_the_languages(text, least):
    share = sum(share for language, share in detected(text) if language in ("ja", "de"))
    output = judge(text, languages=["ja", "de"], min_confidence=least)
    assert len(output.kept) == (share >= least)
    for row in output.dropped.to_pylist():
        assert (row["value"], row["threshold"]) == (share, least)


@settings(deadline=None)
@given(st.text())
def test_whatever_the_text_it_has_languages_with_shares(text):
    shares = [share for _, share in detected(text)]
    assert 0 <= sum(shares) <= 1


@pytest.mark.parametrize("odd", ["\0", "\x7f", "\x85", "\ufffe", "\ufdd0", "\U0010ffff", "\ud800"])
def test_a_character_that_the_library_refuses_does_not_hide_the_language(odd):
    assert detected(ENGLISH + odd)[0][0] == "en"


def test_unknown_text_is_kept_where_it_is_asked_for():
    assert detected("あ")[0] == (UNKNOWN, 0.0)
    assert len(judge("あ", languages=[UNKNOWN], min_confidence=0.0).kept) == 1


def test_codes_that_are_none_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'jp' is no language that CLD2 knows"):
        judge("", languages=["jp"])
    with pytest.raises(ConfigError, match="languages is empty"):
        judge("", languages=[])


def test_a_missing_library_is_said_in_one_line(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "pycld2":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"the stage language needs pip install 'pretrain\[filters\]'$"):
        judge("")


@pytest.mark.parametrize("piece", [ENGLISH, JAPANESE, "a", "word ", "あ", "\x7f", "<p>"])
def test_ten_million_characters_take_seconds(piece):
    started = time.perf_counter()
    judge(piece * (10_000_000 // len(piece)))
    assert time.perf_counter() - started < 20
