"""Train and validation: who is on which side, and in which order."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretrain.data import splits
from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Pool, Serial
from pretrain.data.splits import ALL_TRAINING, ALL_VALIDATION, gather, place_documents, ranges
from pretrain.data.stages import ROWS_AT_ONCE, Batch, Silent, Workspace, build, text_bytes
from pretrain.errors import DataError


@pytest.fixture
def split(shard_documents, tmp_path):
    """A function from lists of texts, a list a shard, to the documents of both sides, shard by shard."""

    def run(shards, fraction=0.1, seed=1, shard_bytes=10**9, executor=None, data_dir=tmp_path):
        at = Workspace(data_dir, executor or Serial(), Silent())
        placed = place_documents(shard_documents(shards, data_dir), seed=seed, workspace=at)
        where = ranges(placed, fraction)
        sides = {n: gather(placed, n, where, shard_bytes=shard_bytes, workspace=at) for n in ("train", "validation")}
        return {name: [pq.read_table(file).to_pylist() for file in side.files()] for name, side in sides.items()}

    return run


def texts_of(side):
    return [row["text"] for shard in side for row in shard]


NUMBERED = [f"document number {number}" for number in range(1000)]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5])
def test_about_the_fraction_is_held_out(split, fraction):
    held_out = len(texts_of(split([NUMBERED], fraction)["validation"]))
    assert held_out == pytest.approx(1000 * fraction, abs=4 * (1000 * fraction * (1 - fraction)) ** 0.5)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_train_and_validation_together_are_the_corpus(split, fraction):
    sides = split([NUMBERED[:300], [], NUMBERED[300:]], fraction)
    rows = [row for side in sides.values() for shard in side for row in shard]
    assert sorted(row["text"] for row in rows) == sorted(NUMBERED)
    assert {row["id"]: row["text"] for row in rows} == {f"{n:04d}": text for n, text in enumerate(NUMBERED)}
    assert set(rows[0]) == {"id", "text", "source", "source_id", "meta"}
    assert all(texts_of(side) for side in sides.values())


def test_copies_of_a_text_land_on_the_same_side(split):
    sides = split([NUMBERED[:200], NUMBERED[:200], NUMBERED[100:200]], 0.5)
    train, validation = texts_of(sides["train"]), texts_of(sides["validation"])
    assert train
    assert validation
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 500


def test_documents_are_shuffled(split):
    order = [NUMBERED.index(text) for text in texts_of(split([NUMBERED])["train"])]
    ascents = sum(a < b for a, b in itertools.pairwise(order))
    assert ascents == pytest.approx(len(order) / 2, abs=4 * (len(order) / 12) ** 0.5)


def test_another_seed_gives_another_split_and_order(split):
    first, again, other = split([NUMBERED]), split([NUMBERED]), split([NUMBERED], seed=2)
    assert first == again
    assert set(texts_of(first["validation"])) != set(texts_of(other["validation"]))
    both = set(texts_of(first["train"])) & set(texts_of(other["train"]))
    assert [t for t in texts_of(first["train"]) if t in both] != [t for t in texts_of(other["train"]) if t in both]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.9])
def test_a_corpus_of_two_documents_has_both_sides(split, seed, fraction):
    sides = split([["one text"], ["another text"]], fraction, seed)
    assert len(texts_of(sides["train"])) == len(texts_of(sides["validation"])) == 1
    assert {*texts_of(sides["train"]), *texts_of(sides["validation"])} == {"one text", "another text"}


@pytest.mark.parametrize("copies", [1, 3])
def test_a_corpus_of_one_text_gives_its_last_tenth(split, copies):
    text = "".join(chr(0x4E00 + number) for number in range(200))
    sides = split([[text]] * copies, 0.1)
    assert texts_of(sides["train"]) == [text[:180]] * copies
    assert texts_of(sides["validation"]) == [text[180:]] * copies


def test_the_sharding_of_the_documents_changes_nothing(split, tmp_path):
    texts = [*NUMBERED[:100], *NUMBERED[:10]]
    whole = split([texts], data_dir=tmp_path / "whole")
    parts = split([texts[:3], [], texts[3:80], texts[80:]], data_dir=tmp_path / "parts")
    assert whole == parts
    assert len(whole["train"]) == 1


@pytest.mark.parametrize("shard_bytes", [300, 1000, 3000])
def test_the_order_does_not_depend_on_the_size_of_the_shards_written(split, shard_bytes, tmp_path):
    whole = split([NUMBERED[:500]], 0.3)
    cut = split([NUMBERED[:500]], 0.3, shard_bytes=shard_bytes)
    assert len(cut["train"]) > 1
    for side in ("train", "validation"):
        assert texts_of(cut[side]) == texts_of(whole[side])


def test_documents_in_many_row_groups_are_all_found(split, tmp_path):
    texts = [f"document number {number}" for number in range(3 * ROWS_AT_ONCE + 7)]
    sides = split([texts], 0.3, shard_bytes=len("".join(texts)) // 4)
    assert len(sides["train"]) > 1
    assert sorted(texts_of(sides["train"]) + texts_of(sides["validation"])) == sorted(texts)


def test_serial_and_pool_give_the_same_bytes(split, tmp_path):
    pool = Pool(workers=2)
    shards = [NUMBERED[:100], NUMBERED[100:200]]
    split(shards, shard_bytes=1000, executor=pool, data_dir=tmp_path / "pool")
    pool.close()
    split(shards, shard_bytes=1000, data_dir=tmp_path / "serial")
    assert len(list((tmp_path / "serial").glob("stages/train-*/*.parquet"))) > 2
    files = sorted(path.relative_to(tmp_path / "serial") for path in (tmp_path / "serial").rglob("*.parquet"))
    for file in files:
        assert (tmp_path / "pool" / file).read_bytes() == (tmp_path / "serial" / file).read_bytes()


def test_all_documents_can_be_named_one_side(shard_documents, tmp_path):
    at = Workspace(tmp_path, Serial(), Silent())
    placed = place_documents(shard_documents([NUMBERED[:50]], tmp_path), seed=1, workspace=at)
    for where, sizes in ((ALL_TRAINING, (50, 0)), (ALL_VALIDATION, (0, 50))):
        sides = [gather(placed, name, where, shard_bytes=10**9, workspace=at) for name in ("train", "validation")]
        assert tuple(side.total("documents_out") for side in sides) == sizes


@pytest.fixture
def _small_pieces(monkeypatch):
    """A corpus of a few kilobytes is sorted and gathered in many pieces."""
    monkeypatch.setattr(splits, "SMALLEST_PIECE", 1000)
    monkeypatch.setattr(splits, "LARGEST_PIECE", 1000)


@pytest.mark.usefixtures("_small_pieces")
def test_pieces_change_nothing_but_the_time(split, tmp_path, monkeypatch):
    texts = [*NUMBERED[:400], *NUMBERED[:50], *["the same text again"] * 70]
    pieces = split([texts[:90], [], texts[90:300], texts[300:]], 0.2, data_dir=tmp_path / "pieces")
    assert len(pieces["train"]) > 2
    monkeypatch.setattr(splits, "SMALLEST_PIECE", 10**9)
    monkeypatch.setattr(splits, "LARGEST_PIECE", 10**9)
    whole = split([texts], 0.2, data_dir=tmp_path / "whole")
    for side in ("train", "validation"):
        assert [row for shard in pieces[side] for row in shard] == [row for shard in whole[side] for row in shard]


@pytest.mark.usefixtures("_small_pieces")
def test_each_row_group_is_read_about_once(shard_documents, tmp_path, monkeypatch):
    at = Workspace(tmp_path, Serial(), Silent())
    placed = place_documents(shard_documents([NUMBERED[:500], NUMBERED[500:]], tmp_path), seed=1, workspace=at)
    groups = sum(pq.ParquetFile(file).num_row_groups for file in placed.files())
    assert groups > 30
    read = []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda file, some: [read.extend(some), real(file, some)][1])
    for side in ("train", "validation"):
        gather(placed, side, ranges(placed, 0.1), shard_bytes=1000, workspace=at)
    assert groups <= len(read) <= groups + len(placed.files())  # those at the border belong to both sides


def test_a_range_is_gathered_without_a_second_copy_of_its_text(shard_documents, tmp_path):
    texts = [f"{number} " + "words " * 500 for number in range(1600)]
    at = Workspace(tmp_path, Serial(), Silent())
    placed = place_documents(shard_documents([texts[n::4] for n in range(4)], tmp_path), seed=1, workspace=at)
    size = placed.total("bytes_out")
    before, held, seen = pa.total_allocated_bytes(), [], 0
    task = splits._Range(tuple(placed.files()), 0, splits.PLACES, 0.0, "test", 100_000)
    for batch in splits._gather(task):
        held.append(pa.total_allocated_bytes() - before)
        seen += batch.bytes_in
    assert seen == size
    assert size < max(held) < 1.5 * size


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_many_copies_of_a_text_are_never_held_together(split, seed, tmp_path, monkeypatch):
    """They come one piece after the other, and among the others as if they had been sorted with them."""
    copy = "a text that stands everywhere"
    shards = [[*NUMBERED[30 * n : 30 * n + 30], *[copy] * (60 if n % 2 else 3)] for n in range(10)]
    held = []
    real = splits._handed_on
    monkeypatch.setattr(
        splits, "_handed_on", lambda table, rows, task: [held.append(len(table)), real(table, rows, task)][1]
    )
    whole = split(shards, 0.1, seed, data_dir=tmp_path / "held")
    most = max(held)
    held.clear()
    monkeypatch.setattr(splits, "CROWD", 200)
    streamed = split(shards, 0.1, seed, data_dir=tmp_path / "streamed")
    assert max(held) < most / 2
    assert streamed == whole


def of_sources(at, sizes, seed):
    """A stage with some documents of each source, all different."""
    table = pa.concat_tables(
        pa.Table.from_pylist(
            [
                {"id": f"{source} {n}", "text": f"{seed} {source} {n}", "source": source, "source_id": "", "meta": "{}"}
                for n in range(size)
            ],
            schema=DOCUMENT,
        )
        for source, size in sizes.items()
    )
    work = lambda task: iter([Batch(table, None, len(table), text_bytes(table), {})])  # noqa: E731
    return build(f"sources{seed}", "key", at, [(1, 0)], work)


def test_each_source_gives_its_share_to_validation(tmp_path):
    at = Workspace(tmp_path, Serial(), Silent())
    sizes = {"books": 2000, "code": 500, "web": 100}
    for seed in range(5):
        placed = place_documents(of_sources(at, sizes, seed), seed=seed, workspace=at)
        held_out = gather(placed, "validation", ranges(placed, 0.2), shard_bytes=10**9, workspace=at)
        found = [name for file in held_out.files() for name in pq.read_table(file)["source"].to_pylist()]
        for name, size in sizes.items():
            assert found.count(name) == pytest.approx(0.2 * size, abs=4 * np.sqrt(0.16 * size))
        assert found == sorted(found)


def test_a_corpus_without_documents_is_refused(shard_documents, tmp_path):
    empty = shard_documents([[], []], tmp_path)
    with pytest.raises(DataError, match="nothing is left of the corpus"):
        place_documents(empty, seed=1, workspace=Workspace(tmp_path, Serial(), Silent()))


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_every_allowed_seed_works(split, seed):
    shuffled = NUMBERED[:20]
    random.Random(seed).shuffle(shuffled)
    sides = split([shuffled], 0.3, seed)
    assert sorted(texts_of(sides["train"]) + texts_of(sides["validation"])) == sorted(NUMBERED[:20])
