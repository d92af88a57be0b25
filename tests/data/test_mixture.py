"""How much comes from which source, and when."""

import numpy as np
import pytest

from pretrain.data import mixture
from pretrain.data.batches import Batches
from pretrain.data.mixture import Mixture, Share
from pretrain.data.shards import TokenShard
from pretrain.errors import DataError


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(mixture, "BLOCK", 100)


def schedule(mixed, rows):
    """The sources and places of the first rows."""
    return mixed.places(np.arange(rows))


def test_without_weights_an_epoch_holds_every_row_of_every_source_once():
    mixed = Mixture([7, 0, 30], [Share()] * 3, seed=1)
    sources, counts = schedule(mixed, 3 * 37)
    for epoch in range(3):
        here = slice(37 * epoch, 37 * (epoch + 1))
        pairs = sorted(zip(sources[here].tolist(), counts[here].tolist(), strict=True))
        assert pairs == [(0, 7 * epoch + row) for row in range(7)] + [(2, 30 * epoch + row) for row in range(30)]
    assert mixed.most_rows is None


def test_sources_come_mixed_and_not_one_behind_the_other():
    sources, _ = schedule(Mixture([500, 500], [Share()] * 2, seed=1), 1000)
    assert 300 < int((np.diff(sources) != 0).sum()) < 700


@pytest.mark.usefixtures("small_blocks")
def test_weights_are_kept_in_every_block_and_small_ones_are_not_forgotten():
    mixed = Mixture([1000, 10, 50], [Share(7), Share(2.99), Share(0.001)], seed=3)
    sources, _ = schedule(mixed, 1000)
    for block in range(10):
        assert np.bincount(sources[100 * block : 100 * block + 100]).tolist() == [70, 29, 1]


@pytest.mark.usefixtures("small_blocks")
def test_every_source_is_read_in_order_of_its_own_rows_without_a_gap():
    mixed = Mixture([40, 300], [Share(1), Share(3, max_epochs=2.5)], seed=5)
    sources, counts = schedule(mixed, 1500)
    for source in (0, 1):
        mine = np.sort(counts[sources == source])
        assert mine.tolist() == list(range(len(mine)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("weights", [(None, None, None), (1, 1, 1), (5, 1, 2)])
def test_a_source_leaves_at_its_maximum_epochs_and_the_others_go_on(weights):
    sizes, epochs = [60, 500, 33], [2.0, None, 0.5]
    shares = [Share(weight, most) for weight, most in zip(weights, epochs, strict=True)]
    sources, _ = schedule(Mixture(sizes, shares, seed=1), 5000)
    assert np.bincount(sources).tolist() == [120, 5000 - 120 - 16, 16]


@pytest.mark.usefixtures("small_blocks")
def test_when_all_sources_reach_their_maximum_the_run_is_over():
    mixed = Mixture([60, 200], [Share(1, 2), Share(3, 1.5)], seed=1)
    assert mixed.most_rows == 120 + 300
    sources, counts = schedule(mixed, mixed.most_rows)
    assert np.bincount(sources).tolist() == [120, 300]
    assert len(set(zip(sources.tolist(), counts.tolist(), strict=True))) == 420


def test_a_source_without_a_row_takes_no_part():
    mixture = Mixture([0, 5], [Share(), Share(max_epochs=2)], 1)
    assert mixture.most_rows == 10
    assert set(mixture.places(np.arange(10))[0].tolist()) == {1}


def test_any_row_is_found_alone_as_in_the_whole_schedule():
    mixed = Mixture([1000, 77], [Share(1), Share(2, max_epochs=3)], seed=9)
    whole = schedule(mixed, 5000)
    for row in (0, 1, 99, 2500, 4999):
        alone = mixed.places(np.array([row]))
        assert (alone[0][0], alone[1][0]) == (whole[0][row], whole[1][row])
    far = mixed.places(np.array([10**12]))
    assert far[1][0] > 10**11


def test_seeds_differ():
    one, other = (schedule(Mixture([50, 50], [Share()] * 2, seed=seed), 100)[0] for seed in (1, 2))
    assert one.tolist() != other.tolist()


@pytest.fixture
def two_sources(make_stream):
    """A stream of 400 tokens below 1000 from one source and 100 from 1000 on from another; 0 ends a text."""
    stream = make_stream([*range(1, 401), *range(1000, 1099), 0], cuts=[200, 400])
    for shard, source in zip(stream.shards, ("one", "one", "other"), strict=True):
        assert isinstance(shard, TokenShard)
        shard.source = source
    return stream


def test_the_tokens_of_a_source_end_with_the_one_behind_them(two_sources):
    assert two_sources.sources() == {"one": (0, 401), "other": (400, 500)}


def test_a_batch_holds_rows_of_each_source_by_its_weight_and_none_across_both(two_sources):
    batches = Batches(two_sources, 10, 100, seed=1, shares={"one": Share(1), "other": Share(3)})
    rows = np.concatenate([batches[number] for number in range(30)])
    from_other = rows[:, 0] >= 1000
    assert 0.72 < from_other.mean() < 0.78
    assert not (rows[~from_other][:, :-1] >= 1000).any()


def test_maximum_epochs_end_the_batches(two_sources):
    shares = {"one": Share(max_epochs=1), "other": Share(max_epochs=2)}
    batches = Batches(two_sources, 10, 1, seed=1, shares=shares)
    assert batches.most_batches == 40 + 18
    starts = [int(batches[number][0, 0]) for number in range(58)]
    assert len(set(starts)) == 49


def test_a_source_with_a_weight_that_is_shorter_than_a_row_is_refused(two_sources):
    with pytest.raises(DataError, match="the source other holds 100 tokens, fewer than a row"):
        Batches(two_sources, 300, 1, seed=1, shares={"one": Share(1), "other": Share(1)})
    assert Batches(two_sources, 300, 1, seed=1).rows_per_epoch == 1


def test_maximum_epochs_that_do_not_fill_a_batch_are_refused(two_sources):
    with pytest.raises(DataError, match="reach their max_epochs after 4 rows, before a batch of 8 is full"):
        Batches(two_sources, 10, 8, seed=1, shares={"one": Share(max_epochs=0.1), "other": Share(max_epochs=0.01)})
