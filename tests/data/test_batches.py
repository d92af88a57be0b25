"""Which tokens make a batch."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.batches import Batches, batch_of_step
from pretrain.data.mixture import Share
from pretrain.data.permutation import permuted
from pretrain.data.shards import TokenStream
from pretrain.errors import ConfigError, DataError

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


@pytest.mark.parametrize("packing", ["stream", "documents", "contiguous"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_loader_workers_changes_no_batch(stream, packing, workers):
    alone = Batches(stream, LENGTH, rows=4, seed=3, packing=packing)
    helped = Batches(stream, LENGTH, rows=4, seed=3, packing=packing, workers=workers)
    for number in [*range(12), 3, 3, 40, 41, 42, 0, 7]:
        assert (helped[number] == alone[number]).all()


def test_workers_never_close_a_file_that_another_one_reads(make_stream, monkeypatch):
    monkeypatch.setattr("pretrain.data.shards.MOST_OPEN_FILES", 1)
    stream = make_stream(range(2001), cuts=range(40, 2000, 40))
    alone = Batches(stream, LENGTH, rows=20, seed=3)
    helped = Batches(stream, LENGTH, rows=20, seed=3, workers=4)
    for number in range(300):
        assert (helped[number] == alone[number]).all()


def test_workers_read_no_further_than_the_sources_reach(stream):
    shares = {"test": Share(max_epochs=1)}
    batches = Batches(stream, LENGTH, rows=4, seed=3, shares=shares, workers=2)
    assert sorted(row for number in range(5) for row in rows_of(batches[number])) == list(range(20))
    assert not batches._coming


def test_an_error_of_a_worker_is_raised_where_its_batch_is_asked_for(stream):
    batches = Batches(stream, LENGTH, rows=4, seed=3, workers=1)
    for file in stream.folder.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="is missing or cut"):
        batches[0]


@pytest.mark.parametrize("packing", ["stream", "documents", "contiguous"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_together_read_the_batch_of_one(stream, packing, ranks):
    whole = Batches(stream, LENGTH, rows=4, seed=3, packing=packing)
    parts = [Batches(stream, LENGTH, rows=4, seed=3, packing=packing, rank=rank, ranks=ranks) for rank in range(ranks)]
    for number in (0, 1, 4, 17, 10**6):
        assert (np.concatenate([part[number] for part in parts]) == whole[number]).all()
    assert all(part.tokens == whole.tokens for part in parts)


def test_rows_that_ranks_cannot_share_are_refused_with_a_number_that_they_can(stream):
    with pytest.raises(ConfigError, match=r"6 rows .* 4 ranks; try trainer\.batch_tokens=40"):
        Batches(stream, LENGTH, rows=6, seed=3, ranks=4)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 20])
def test_contiguous_rows_go_on_in_the_next_batch_until_the_epoch_ends(stream, rows):
    batches = Batches(stream, LENGTH, rows, seed=3, packing="contiguous")
    length = 20 // rows
    assert batches.rows_per_epoch == length * rows
    assert [number for number in range(3 * length) if not batches.goes_on(number)] == [0, length, 2 * length]
    for number in range(1, 3 * length):
        if batches.goes_on(number):
            assert (batches[number][:, 0] == batches[number - 1][:, -1]).all()
    assert (batches[length] == batches[0]).all()
    targets = np.concatenate([batches[number][:, 1:] for number in range(length)], axis=1)
    assert targets.ravel().tolist() == list(range(1001, 1001 + targets.size))


def test_other_packings_never_go_on(stream):
    assert not any(Batches(stream, LENGTH, 4, seed=3).goes_on(number) for number in range(10))


def test_contiguous_refuses_shares_and_a_stream_shorter_than_a_batch(stream):
    with pytest.raises(ConfigError, match="packing=contiguous reads all sources"):
        Batches(stream, LENGTH, 4, seed=3, shares={"test": Share(max_epochs=2)}, packing="contiguous")
    with pytest.raises(DataError, match="holds 101 tokens, fewer than a batch"):
        Batches(stream, LENGTH, 21, seed=3, packing="contiguous")


@given(bounds=st.lists(st.integers(0, 60), max_size=8, unique=True), steps=st.integers(1, 40))
def test_steps_read_every_batch_but_those_of_skipped_windows(bounds, steps):
    places = sorted(bounds)
    skipped = list(zip(places[::2], places[1::2], strict=False))
    passed = {number for first, last in skipped for number in range(first, last)}
    wanted = [number for number in range(steps + 60) if number not in passed][:steps]
    assert [batch_of_step(step, skipped) for step in range(steps)] == wanted


def test_a_trillion_tokens_are_addressed_and_any_batch_is_found_at_once(tmp_path):
    """Sparse files: eight shards of 1.25e11 tokens, in which a few places hold other tokens than 0."""
    size, shards = 125_000_000_000, []
    for number in range(8):
        path = tmp_path / f"train-{number:05d}.bin"
        with path.open("wb") as file:
            try:
                file.truncate(2 * size)
            except OSError as error:
                pytest.skip(f"no sparse file of {2 * size:,} bytes here: {error}")
        figures = {"tokens": size, "documents": 1, "bytes": 1, "characters": 1, "words": 1, "source": "test"}
        shards.append({"file": path.name, "checksum": "", **figures})
    stream = TokenStream(tmp_path, "train", {"dtype": "uint16", "splits": {"train": shards}})
    assert len(stream) == 10**12
    batches = Batches(stream, 1024, rows=8, seed=3)
    assert batches.rows_per_epoch == (10**12 - 1) // 1024
    started = time.perf_counter()
    for number in (0, 10**8, 10**11 + 7, 10**14):
        starts = batches._ordered(number * 8 // 4096)
        assert ((starts >= 0) & (starts < 10**12 - 1024) & (starts % 1024 == 0)).all()
        place = int(starts[number * 8 % 4096 + 5])
        with (tmp_path / f"train-{place // size:05d}.bin").open("r+b") as file:
            file.seek(2 * (place % size))
            file.write(b"\x39\x30")
        assert batches[number][5, 0] == 12345
    assert time.perf_counter() - started < 5
    across = stream.read(3 * size - 2, 3 * size + 2)
    assert across.tolist() == [0] * 4


def test_batches_that_grow_pass_over_the_same_rows_in_the_same_order(make_stream):
    stream = make_stream(range(2001))
    even = Batches(stream, LENGTH, 4, seed=3)
    growing = Batches(stream, LENGTH, 4, seed=3, doublings=[12 * LENGTH, 13 * LENGTH, 50 * LENGTH])
    sizes = [len(growing[number]) for number in range(8)]
    # 12 rows in fours; both of the first thresholds are then behind; from row 60 on the third is.
    assert sizes == [4, 4, 4, 8, 16, 16, 32, 32]
    assert [growing.tokens_in(number) for number in range(8)] == [size * LENGTH for size in sizes]
    together = np.concatenate([growing[number] for number in range(8)])
    assert np.array_equal(together, np.concatenate([even[number] for number in range(sum(sizes) // 4)]))


def test_a_batch_that_grows_is_shared_among_ranks_and_read_ahead(make_stream):
    stream, doublings = make_stream(range(2001)), [8 * LENGTH]
    alone = Batches(stream, LENGTH, 4, seed=3, doublings=doublings)
    ranks = [Batches(stream, LENGTH, 4, seed=3, doublings=doublings, rank=rank, ranks=2, workers=1) for rank in (0, 1)]
    for number in range(5):
        assert np.array_equal(alone[number], np.concatenate([batches[number] for batches in ranks]))


def test_batches_that_grow_end_with_the_sources_epochs(make_stream):
    stream = make_stream(range(40 * LENGTH + 1))
    shares = {"test": Share(1.0, 1.0)}
    assert Batches(stream, LENGTH, 4, 3, shares).most_batches == 10
    # Four of 4 rows, then three of 8.
    assert Batches(stream, LENGTH, 4, 3, shares, doublings=[16 * LENGTH]).most_batches == 7
    assert Batches(stream, LENGTH, 4, 3, shares, doublings=[24 * LENGTH]).most_batches == 8


@pytest.mark.parametrize(("doublings", "packing"), [([50, 40], "stream"), ([41, 42], "stream"), ([40], "contiguous")])
def test_thresholds_that_do_not_ascend_or_do_not_go_with_the_packing_are_refused(doublings, packing, make_stream):
    with pytest.raises(ConfigError, match=r"trainer\.double_batch_at"):
        Batches(make_stream(range(2001)), LENGTH, 4, seed=3, doublings=doublings, packing=packing)
