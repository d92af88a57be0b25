"""Which tokens make a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.batches import Batches, permuted
from pretrain.errors import DataError

LENGTH = 5


@pytest.fixture
def stream(make_stream):
    """101 different tokens in three shards: 20 rows of 5 targets."""
    return make_stream(range(1000, 1101), cuts=[13, 50])


def rows_of(batch):
    """The numbers of the rows in a batch of `stream`."""
    assert ((batch[:, 0] - 1000) % LENGTH == 0).all()
    return ((batch[:, 0] - 1000) // LENGTH).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_permuted_is_a_permutation(size, key):
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permuted_is_a_permutation_of_any_size_by_any_key(size, key):
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


@given(size=st.integers(1, 2**40), key=st.integers(0, 2**64 - 1), data=st.data())
def test_a_place_goes_to_the_same_row_whatever_is_asked_with_it(size, key, data):
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    together = permuted(places, size, key)
    assert together.tolist() == [permuted(places[i : i + 1], size, key)[0] for i in range(len(places))]
    assert ((together >= 0) & (together < size)).all()
    assert len(set(together.tolist())) == len(set(places.tolist()))


def test_other_keys_give_other_permutations():
    orders = {tuple(permuted(np.arange(100), 100, key).tolist()) for key in range(50)}
    assert len(orders) == 50
    assert tuple(range(100)) not in orders


def test_every_place_is_equally_likely_for_every_row():
    counts = np.zeros((16, 16))
    for key in range(1600):
        counts[np.arange(16), permuted(np.arange(16), 16, key)] += 1
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert chi_square < 297  # 15 x 15 degrees of freedom, p = 0.001


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 10, 20])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_holds_each_row_once(stream, rows, epoch):
    batches = Batches(stream, LENGTH, rows, seed=3)
    numbers = range(epoch * 20 // rows, (epoch + 1) * 20 // rows)
    assert sorted(row for number in numbers for row in rows_of(batches[number])) == list(range(20))


def test_every_token_but_the_first_is_a_target_once_an_epoch(stream):
    batches = Batches(stream, LENGTH, rows=4, seed=3)
    targets = np.concatenate([batches[number][:, 1:].ravel() for number in range(5)])
    assert sorted(targets.tolist()) == list(range(1001, 1101))
    assert batches.tokens * 5 == 100


def test_a_remainder_shorter_than_a_row_is_left_out(make_stream):
    batches = Batches(make_stream(range(104)), LENGTH, rows=20, seed=3)
    assert sorted(batches[0][:, 1:].ravel().tolist()) == list(range(1, 101))


def test_neighbouring_rows_share_exactly_one_token(stream):
    rows = {row[0]: row for batch in range(5) for row in Batches(stream, LENGTH, rows=4, seed=3)[batch].tolist()}
    assert len(rows) == 20
    for first in range(1000, 1095, LENGTH):
        assert rows[first] == list(range(first, first + LENGTH + 1))
        assert set(rows[first]) & set(rows[first + LENGTH]) == {first + LENGTH}


@given(read_before=st.lists(st.integers(0, 40), max_size=5), number=st.integers(0, 40))
@settings(deadline=None)
def test_a_batch_is_the_same_whatever_was_read_before(make_stream, read_before, number):
    stream = make_stream(range(1000, 1101), cuts=[13, 50])
    expected = Batches(stream, LENGTH, rows=3, seed=3)[number]
    batches = Batches(stream, LENGTH, rows=3, seed=3)
    for other in read_before:
        batches[other]
    assert (batches[number] == expected).all()


@pytest.mark.parametrize("rows", [3, 7, 19, 33])
def test_a_batch_across_the_border_of_epochs_goes_on_with_the_next_one(stream, rows):
    one_by_one = Batches(stream, LENGTH, rows=1, seed=3)
    order = [rows_of(one_by_one[number])[0] for number in range(80)]
    batches = Batches(stream, LENGTH, rows, seed=3)
    for number in range(80 // rows):
        assert rows_of(batches[number]) == order[number * rows : (number + 1) * rows]


def test_epochs_and_seeds_differ_in_their_order(stream):
    def order(seed, epoch):
        return tuple(rows_of(Batches(stream, LENGTH, rows=20, seed=seed)[epoch]))

    assert len({order(seed, epoch) for seed in range(5) for epoch in range(5)}) == 25


def test_a_stream_of_one_row_gives_it_again_and_again(make_stream):
    batches = Batches(make_stream(range(6)), LENGTH, rows=2, seed=3)
    assert batches[4].tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize("size", [0, 1, LENGTH - 1, LENGTH])
def test_a_stream_shorter_than_a_row_is_refused(make_stream, size):
    with pytest.raises(DataError, match=rf"holds {size} tokens.*trainer.sequence_length={LENGTH} \+ 1"):
        Batches(make_stream(range(size)), LENGTH, rows=1, seed=3)
