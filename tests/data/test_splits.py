"""Train and validation: who is on which side, and in which order."""

import itertools
import random

import pyarrow.parquet as pq
import pytest

from pretrain.data.executors import Pool, Serial
from pretrain.data.splits import ALL_TRAINING, ALL_VALIDATION, gather, place_documents, ranges
from pretrain.data.stages import ROWS_AT_ONCE, Silent, Workspace
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


@pytest.mark.parametrize("shard_bytes", [300, 1000, 5000])
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
    files = sorted(path.relative_to(tmp_path / "serial") for path in (tmp_path / "serial").rglob("*.parquet"))
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "pool" / file).read_bytes() == (tmp_path / "serial" / file).read_bytes()


def test_all_documents_can_be_named_one_side(shard_documents, tmp_path):
    at = Workspace(tmp_path, Serial(), Silent())
    placed = place_documents(shard_documents([NUMBERED[:50]], tmp_path), seed=1, workspace=at)
    for where, sizes in ((ALL_TRAINING, (50, 0)), (ALL_VALIDATION, (0, 50))):
        sides = [gather(placed, name, where, shard_bytes=10**9, workspace=at) for name in ("train", "validation")]
        assert tuple(side.total("documents_out") for side in sides) == sizes


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
