import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.data import running, stages
from pretrain.data.dedup.exact import ExactDuplicates
from pretrain.data.running import CorpusStage

STAGE = ExactDuplicates(ignore_case=False, ignore_space=False)


def test_every_repeat_is_dropped_for_the_first(decide):
    assert decide(STAGE, ["a", "b", "a", "", "a", "b", "c", ""]) == [
        ("2", "0", 1.0),
        ("4", "0", 1.0),
        ("5", "1", 1.0),
        ("7", "3", 1.0),
    ]


@pytest.mark.parametrize("cut", range(7))
def test_the_result_is_independent_of_sharding(decide, cut):
    texts = ["x", "y", "x", "z", "y", "x"]
    assert decide(STAGE, texts[:cut], [], texts[cut:]) == decide(STAGE, texts)


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 12))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_first_of_equal_texts_stays_wherever_they_stand(decide, numbers, cut):
    texts = [f"text {number}" for number in numbers]
    expected = [(str(i), str(texts.index(text)), 1.0) for i, text in enumerate(texts) if texts.index(text) < i]
    assert decide(STAGE, texts[:cut], texts[cut:]) == expected


@pytest.mark.parametrize("partition_bytes", [100, 1000, 10**9])
@pytest.mark.parametrize("rows_at_once", [1, 7, 1024])
def test_the_result_does_not_depend_on_partitions_or_row_groups(decide, monkeypatch, partition_bytes, rows_at_once):
    draw = random.Random(5)
    texts = [f"text number {draw.randrange(60)}" for _ in range(150)]
    expected = [(str(i), str(texts.index(text)), 1.0) for i, text in enumerate(texts) if texts.index(text) < i]
    monkeypatch.setattr(running, "PARTITION_BYTES", partition_bytes)
    monkeypatch.setattr(stages, "ROWS_AT_ONCE", rows_at_once)
    assert decide(STAGE, texts[:70], texts[70:80], [], texts[80:]) == expected


def test_case_and_space_count_unless_they_are_ignored(decide):
    texts = ["Straße one", "STRASSE ONE", "Straße\n one ", "Straße on"]
    stages = {
        (case, space): ExactDuplicates(ignore_case=case, ignore_space=space)
        for case in (False, True)
        for space in (False, True)
    }
    assert decide(stages[False, False], texts) == []
    assert decide(stages[True, False], texts) == [("1", "0", 1.0)]
    assert decide(stages[False, True], texts) == [("2", "0", 1.0)]
    assert [row[0] for row in decide(stages[True, True], texts)] == ["1", "2"]


def test_nothing_is_dropped_from_nothing(decide):
    assert decide(STAGE) == []
    assert decide(STAGE, [], []) == []


def test_it_is_a_corpus_stage():
    assert isinstance(STAGE, CorpusStage)
