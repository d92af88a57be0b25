"""Means, accuracies and standard errors from sums over units."""

import math

import numpy as np
import pytest

from pretrain.data.shards import ShardWriter, TokenStream
from pretrain.evaluation.scoring import Scored
from pretrain.evaluation.sums import Sums, bounds, measured, position_of, ratio_error, units_of


def some(places, nats, higher, equal=None, seen=None, again=None):
    count = len(places)
    return Scored(
        np.array(places),
        np.array(seen or [1] * count),
        np.array(again or [False] * count),
        np.array(nats, float),
        np.array(higher),
        np.array(equal or [1] * count),
    )


def stream_of(folder, sources):
    """A stream of documents of given lengths, ends of text aside, by source."""
    shards = []
    for number, (source, lengths) in enumerate(sources.items()):
        writer = ShardWriter(folder, f"validation-{number:05d}", vocab_size=9, end_of_text=0, source=source)
        writer.write([""] * len(lengths), [np.ones(length, np.int64) for length in lengths])
        shards.append(vars_of(writer.close(last=number == len(sources) - 1)))
    return TokenStream(folder, "validation", {"dtype": "uint16", "end_of_text": 0, "splits": {"validation": shards}})


def vars_of(shard):
    return {name: getattr(shard, name) for name in shard.__slots__}


def test_loss_and_accuracy_are_means_over_targets():
    sums = Sums.zeros(3)
    sums.add(np.array([0, 0, 2]), some([1, 2, 3], [1.0, 2.0, 6.0], [0, 4, 5]))
    assert sums.loss.mean == 3
    assert sums.tokens.tolist() == [2, 0, 1]
    assert (sums.accuracy(1), sums.accuracy(5)) == (1 / 3, 2 / 3)
    assert sums.part(slice(0, 1)).loss.mean == 1.5
    sums.add(np.array([1]), some([4], [math.inf], [8]))
    assert (sums.loss.unseen, sums.loss.mean, sums.error()) == (1, math.inf, None)


def test_ties_count_as_if_they_were_broken_at_random():
    sums = Sums.zeros(1)
    sums.add(np.zeros(3, int), some([1, 2, 3], [1.0] * 3, [0, 0, 3], [10, 2, 4]))
    assert sums.top[1][0] == pytest.approx(1 / 10 + 1 / 2)
    assert sums.top[5][0] == pytest.approx(5 / 10 + 1 + 2 / 4)


def test_targets_without_a_rank_do_not_count_for_accuracy():
    sums = Sums.zeros(2)
    sums.add(np.array([0, 0, 1]), some([1, 2, 3], [1.0] * 3, [0, 0, 9], [1, 0, 1]))
    assert (sums.ranked.tolist(), sums.accuracy(1), sums.loss.tokens) == ([1, 1], 0.5, 3)
    assert Sums.zeros(1).accuracy(1) is None


def test_the_error_of_equal_units_is_that_of_their_mean():
    totals = np.random.default_rng(0).normal(size=50)
    expected = totals.std(ddof=1) / math.sqrt(50) / 4
    assert ratio_error(totals, np.full(50, 4)) == pytest.approx(expected)
    assert ratio_error(totals[:1], np.array([4])) is None


def test_the_error_is_how_much_the_mean_varies_between_samples_of_documents():
    """Tokens of a document are alike: the error by tokens would be far too small."""
    generator = np.random.default_rng(1)
    means, errors, naive = [], [], []
    for _ in range(300):
        sizes = generator.integers(5, 80, 60)
        levels = 3 + generator.normal(size=60)
        nats = [level + 0.1 * generator.normal(size=size) for level, size in zip(levels, sizes, strict=True)]
        totals = np.array([part.sum() for part in nats])
        means.append(totals.sum() / sizes.sum())
        errors.append(ratio_error(totals, sizes))
        every = np.concatenate(nats)
        naive.append(every.std() / math.sqrt(len(every)))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.mean(naive) < np.std(means) / 3


def test_units_are_documents_where_there_are_enough_of_them(tmp_path):
    stream = stream_of(tmp_path, {"a": [3, 0, 5] * 10, "b": [2] * 6})
    units = units_of(stream)
    assert units.documents
    assert len(units) == 36
    assert units.sources == {"a": slice(0, 30), "b": slice(30, 36)}
    assert units.method == "between 36 documents"


def test_units_of_few_documents_are_blocks_that_keep_to_their_source(tmp_path):
    stream = stream_of(tmp_path, {"a": [1000, 20], "b": [3000]})
    units = units_of(stream)
    assert not units.documents
    assert "blocks" in units.method
    starts = [0, 1022]  # of the sources
    assert set(starts) <= set(units.starts.tolist())
    assert units.starts[units.sources["b"].start] == 1022
    assert units.sources["a"].stop == units.sources["b"].start
    assert units.sources["b"].stop == len(units)
    sizes = np.diff([*units.starts, len(stream) - 1])
    assert sizes.min() >= 40
    assert 40 <= len(units) <= 60


@pytest.mark.parametrize("sources", [{"a": [3, 4] * 20, "b": [7] * 5}, {"a": [500], "b": [300, 9]}])
def test_parts_add_up_to_the_whole(tmp_path, sources):
    stream = stream_of(tmp_path, sources)
    places = np.arange(1, len(stream))
    found = measured([some(places, places % 7, places % 6, seen=(places % 16 + 1).tolist())], stream)
    assert found.sums.loss.tokens == len(stream) - 1
    assert found.sums.loss.nats == (places % 7).sum()
    documents = [length + 1 for lengths in sources.values() for length in lengths]  # each with its end of text
    assert found.documents.tokens.tolist() == documents
    parts = [found.sums.part(units) for units in found.units.sources.values()]
    assert [part.loss.tokens for part in parts] == [
        sum(length + 1 for length in lengths) for lengths in sources.values()
    ]
    assert sum(part.loss.nats for part in parts) == found.sums.loss.nats
    assert found.positions.loss.tokens == len(stream) - 1


def test_what_is_scored_again_counts_for_positions_only(tmp_path):
    stream = stream_of(tmp_path, {"a": [3] * 40})
    found = measured([some([1, 2, 2], [1.0, 1.0, 9.0], [0, 0, 0], seen=[1, 2, 1], again=[False, False, True])], stream)
    assert found.sums.loss.nats == 2
    assert found.positions.nats[:3].tolist() == [0, 10, 1]


def test_positions_fall_into_the_bins_that_are_told():
    seen = np.arange(0, 3000)
    bins = position_of(seen)
    for position in range(bins.max() + 1):
        first, last = bounds(position)
        inside = seen[bins == position]
        assert (inside[0], inside[-1]) == (first, min(last, 2999))
    assert [bounds(position) for position in range(5)] == [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8)]
