import random
from collections import defaultdict

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.data import running, stages
from pretrain.data.dedup import units
from pretrain.data.dedup.passages import RepeatedPassages
from pretrain.data.dedup.units import CUTS, unit_hashes
from pretrain.data.running import CorpusStage
from pretrain.data.words import words

KINDS = ["line", "paragraph", "sentence"]


def stage(unit="line", window=1, min_bytes=1, max_documents=1, min_words=0):
    return RepeatedPassages(
        unit=unit, window=window, min_bytes=min_bytes, max_documents=max_documents, min_words=min_words
    )


def rows_of(files):
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def texts_of(built):
    return {int(row["id"]): row["text"] for row in rows_of(built.files())}


def normal(unit: str) -> tuple[str, ...]:
    return tuple(words(unit.lower()))


def by_hand(texts, unit, window, min_bytes, max_documents):
    """For each text the units that are left, and the survivors of the others."""
    cuts = [CUTS[unit](text) for text in texts]
    holders: dict[tuple[tuple[str, ...], ...], list[tuple[int, list[int]]]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        worded = [place for place, piece in enumerate(cut) if normal(piece)]
        for start in range(len(worded) - window + 1):
            places = worded[start : start + window]
            passage = tuple(normal(cut[place]) for place in places)
            if sum(len(word.encode()) for part in passage for word in part) >= min_bytes:
                holders[passage].append((number, places))
    gone: list[dict[int, set[int]]] = [defaultdict(set) for _ in texts]
    for found in holders.values():
        if len({number for number, _ in found}) > max_documents:
            first = found[0][0]
            for number, places in found:
                for place in places if number != first else ():
                    gone[number][place].add(first)
    left = ["".join(piece for place, piece in enumerate(cut) if place not in gone[n]) for n, cut in enumerate(cuts)]
    return left, gone


some_texts = st.lists(
    st.lists(
        st.sampled_from(["One.", "one!", "Two words.", "two. three.", "猫。犬。", "猫は。", "", "--", "x\n"]),
        max_size=7,
    )
    .map("\n".join)
    .filter(words),
    max_size=6,
)


@pytest.mark.parametrize("unit", KINDS)
@given(
    texts=some_texts,
    window=st.integers(1, 3),
    min_bytes=st.integers(1, 9),
    max_documents=st.integers(1, 3),
    cut=st.integers(0, 6),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_passage_of_many_documents_stays_in_the_first_alone(
    built, unit, texts, window, min_bytes, max_documents, cut
):
    left, gone = by_hand(texts, unit, window, min_bytes, max_documents)
    result = built(stage(unit, window, min_bytes, max_documents), texts[:cut], texts[cut:])
    kept = texts_of(result)
    for number, text in enumerate(texts):
        if gone[number]:
            assert kept.get(number, "") == left[number].strip("\n").rstrip() or not words(left[number])
        else:
            assert kept[number] == text
    assert set(kept) == {number for number, text in enumerate(left) if words(text)}
    removed = rows_of(result.dropped())
    changed = {number for number in kept if gone[number]}
    for row in removed:
        number, survivor = int(row["id"]), int(row["survivor"])
        assert any(survivor in firsts for firsts in gone[number].values())
        assert row["text"] if number in kept else row["text"] == texts[number]
    assert {int(row["id"]) for row in removed if row["rule"] == f"duplicate_{unit}"} == changed
    assert {int(row["id"]) for row in removed if row["rule"] == "few_words_left"} == set(range(len(texts))) - set(kept)
    counters = result.summary()["counters"]
    assert counters.get("documents_cut", 0) == len(changed)
    assert counters.get(f"{unit}s_removed", 0) == sum(len(gone[number]) for number in changed)


@pytest.mark.parametrize("unit", KINDS)
@given(texts=some_texts, window=st.integers(1, 3), min_words=st.integers(0, 6))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_unit_stays_in_some_document(built, unit, texts, window, min_words):
    kept = texts_of(built(stage(unit, window, min_words=min_words), texts))
    lost = {normal(piece) for text in texts for piece in CUTS[unit](text)} - {()}
    for text in kept.values():
        lost -= {normal(piece) for piece in CUTS[unit](text)}
    in_dropped = {normal(p) for n, text in enumerate(texts) if n not in kept for p in CUTS[unit](text)}
    assert lost <= in_dropped
    if window == 1:  # with more, what is left of a short document may go with it
        assert not [piece for piece in lost if sum(piece in map(normal, CUTS[unit](text)) for text in texts) > 1]


NOTICE = "This site uses cookies to do what sites do, and you agree."


def test_a_notice_is_removed_and_named_with_the_document_that_keeps_it(built):
    texts = [f"{NOTICE}\nA text about cats.", f"A text about dogs.\n\n{NOTICE.upper()}", "Neither of them."]
    result = built(stage(min_bytes=40), texts)
    assert texts_of(result) == {0: texts[0], 1: "A text about dogs.", 2: texts[2]}
    (row,) = rows_of(result.dropped())
    assert row == {
        "id": "0001",
        "source_id": "record 0001",
        "text": NOTICE.upper(),
        "source": "test",
        "stage": "duplicates",
        "rule": "duplicate_line",
        "value": 2.0,
        "threshold": 1.0,
        "reason": "1 line removed, which document 0000 keeps for 2",
        "survivor": "0000",
    }
    assert result.summary()["counters"] == {
        "documents_cut": 1,
        "lines_removed": 1,
        "characters_removed": len(NOTICE),
    }


def test_a_document_with_too_little_left_is_dropped_whole_with_reason_and_survivor(built):
    texts = [f"{NOTICE}\nA text about cats.", f"Two words.\n{NOTICE}"]
    result = built(stage(min_bytes=40, min_words=3), texts)
    assert texts_of(result) == {0: texts[0]}
    (row,) = rows_of(result.dropped())
    assert (row["text"], row["rule"], row["value"], row["threshold"]) == (texts[1], "few_words_left", 2.0, 3.0)
    assert row["survivor"] == "0000"
    assert row["reason"] == "without 1 line that others have too, such as 0000, 2 words are left"
    assert result.summary()["reasons"] == {"few_words_left": 1}


def test_a_short_document_that_keeps_a_passage_for_others_stays(built):
    other = "Another line that stands in some documents and no others."
    texts = [NOTICE, f"{NOTICE}\n{other}", f"{other}\nand a text about cats that is long enough."]
    result = built(stage(min_bytes=40, min_words=30), texts)
    assert texts_of(result) == {0: NOTICE, 1: other}


def test_three_sentences_in_a_row_are_removed_and_two_are_not(built):
    one, two, three = "Rain fell all night.", "The garden shone.", "Nobody saw it."
    texts = [f"{one} {two} {three}", f"{one} {two} But they did.", f"First this. {one} {two} {three} Then that."]
    result = built(stage("sentence", window=3), texts)
    assert texts_of(result) == {0: texts[0], 1: texts[1], 2: "First this. Then that."}


@pytest.mark.parametrize("partition_bytes", [500, 10**9])
@pytest.mark.parametrize("at_once", [2, 1024])
def test_the_result_does_not_depend_on_partitions_or_row_groups(built, monkeypatch, partition_bytes, at_once):
    draw = random.Random(4)
    texts = ["\n".join(f"line number {draw.randrange(60)}" for _ in range(draw.randrange(1, 9))) for _ in range(60)]
    expected = built(stage(max_documents=2, min_words=3), texts)
    monkeypatch.setattr(running, "PARTITION_BYTES", partition_bytes)
    monkeypatch.setattr(stages, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(units, "CHARACTERS_AT_ONCE", at_once)
    found = built(stage(max_documents=2, min_words=3), texts[:20], texts[20:21], [], texts[21:])
    assert rows_of(found.files()) == rows_of(expected.files())
    assert rows_of(found.dropped()) == rows_of(expected.dropped())


@pytest.mark.parametrize("unit", KINDS)
@given(text=st.text(st.sampled_from("ab.!?。」) \n\t猫\r\u3000"), max_size=40))
def test_the_units_of_a_text_are_the_text(unit, text):
    cut = CUTS[unit](text)
    assert "".join(cut) == text
    assert all(cut)


def test_sentences_end_where_a_reader_would_say():
    text = 'Mind 3.14 and a.b! "Yes." He went (away.) Then?\n猫が来た。「犬も。」と言う。終わり\n\nA line\nmore'
    assert [sentence.strip() for sentence in CUTS["sentence"](text)] == [
        "Mind 3.14 and a.b!",
        '"Yes."',
        "He went (away.)",
        "Then?",
        "猫が来た。",
        "「犬も。」",
        "と言う。",
        "終わり",
        "A line",
        "more",
    ]


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "猫", "é", "--", "\n"]), max_size=6).map(" ".join), max_size=8))
def test_units_with_the_same_words_have_the_same_hash(pieces):
    hashes, sizes = unit_hashes(pieces)
    assert sizes.tolist() == [len("".join(words(piece.lower())).encode()) for piece in pieces]
    for one, piece in zip(hashes.tolist(), pieces, strict=True):
        for other, another in zip(hashes.tolist(), pieces, strict=True):
            assert (one == other) == (normal(piece) == normal(another))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", KINDS)
@pytest.mark.parametrize("piece", ["a", ".", ". ", "\n", " ", "。", "\n \n", "a b. ", "」"])
def test_a_very_long_text_takes_no_longer_than_its_length(built, unit, piece):
    long = piece * (1_000_000 // len(piece))
    assert texts_of(built(stage(unit, window=2, min_bytes=10), [long, "short"]))[0] == long


def test_nothing_is_removed_from_nothing(built):
    assert texts_of(built(stage())) == {}
    assert texts_of(built(stage(), [], [])) == {}


def test_it_is_a_corpus_stage():
    assert isinstance(stage(), CorpusStage)
