"""n-grams on disk: the same model to the last bit, in little memory, and nothing left behind."""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pretrain.errors import PretrainError
from pretrain.models import ngram_runs, ngram_storage
from pretrain.models.ngram import NGram
from pretrain.models.ngram_mixture import NGramMixture
from pretrain.models.ngram_storage import empty, pieces
from pretrain.models.ngram_trie import UNSEEN, NGramTrie

EOT, V = 0, 60
MUCH = 2**33
SMALL_STEPS = ((ngram_runs, "RUN", 2**13), (ngram_runs, "BUCKET", 2**11), (ngram_storage, "PIECE", 2**11))


def make_steps_small() -> None:
    """Many runs, buckets and pieces for a short text."""
    for module, name, size in SMALL_STEPS:
        setattr(module, name, size)


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Many steps for a short text; and a folder of temporary files that must be empty in the end."""
    for module, name, size in SMALL_STEPS:
        monkeypatch.setattr(module, name, size)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def text(length: int) -> np.ndarray:
    """Tokens of which some follow others more often; documents end here and there."""
    generator = np.random.default_rng(0)
    tokens = (generator.zipf(1.5, length) + np.roll(generator.zipf(1.5, length), 1)) % (V - 1) + 1
    tokens[:: max(2, length // 50)] = EOT
    tokens[-1] = EOT
    return tokens.astype(np.uint16)


def fitted(stream: np.ndarray, memory_bytes: int, order: int = 4, smoothing: str = "kneser_ney") -> NGram:
    model = NGram(V, order=order, smoothing=smoothing, k=0.5, memory_bytes=memory_bytes)  # type: ignore[arg-type]  # a text
    model.fit(stream, EOT)
    return model


def opened() -> int:
    """Files that this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    tables, others = first.state_dict(), second.state_dict()
    assert tables.keys() == others.keys()
    for name, table in tables.items():
        assert table.dtype == others[name].dtype
        assert table.numpy().tobytes() == others[name].numpy().tobytes(), name


@pytest.mark.parametrize("order", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("smoothing", ["kneser_ney", "absolute", "witten_bell", "add_k", "none", "stupid_backoff"])
def test_a_model_fitted_on_disk_is_that_of_memory_to_the_last_bit(order: int, smoothing: str) -> None:
    stream = text(20_000)
    in_memory, on_disk = (fitted(stream, memory, order, smoothing) for memory in (MUCH, 1))
    assert in_memory.tables.trie.slots
    assert not on_disk.tables.trie.slots
    assert_same(in_memory, on_disk)
    rows = torch.from_numpy(stream[:600].reshape(6, 100).astype(np.int64))
    for found, expected in (
        (on_disk.log_scores(rows[:, :-1], rows[:, 1:]), in_memory.log_scores(rows[:, :-1], rows[:, 1:])),
        (on_disk(rows[:, :20]), in_memory(rows[:, :20])),
        (on_disk.next_logits(rows, torch.full((6,), 50))[0], in_memory.next_logits(rows, torch.full((6,), 50))[0]),
    ):
        assert torch.equal(found, expected)
    assert on_disk.parameter_count() == in_memory.parameter_count()


@pytest.mark.parametrize("smoothing", ["kneser_ney", "witten_bell"])
def test_the_size_of_the_pieces_changes_nothing(smoothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = fitted(text(5_000), MUCH, smoothing=smoothing).state_dict()
    for piece in (100, 2**20):
        monkeypatch.setattr(ngram_storage, "PIECE", piece)
        for name, table in fitted(text(5_000), MUCH, smoothing=smoothing).state_dict().items():
            assert torch.allclose(table, tables[name], rtol=1e-12), name  # sums in another order


def test_a_mixture_fitted_on_disk_is_that_of_memory() -> None:
    in_memory, on_disk = (
        NGramMixture(V, order=4, cache_order=2, context_length=64, held_out=0.1, memory_bytes=memory)
        for memory in (MUCH, 1)
    )
    for model in (in_memory, on_disk):
        model.fit(text(5_000), EOT)
    assert_same(in_memory, on_disk)


FITS = """
import json, sys, tracemalloc
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.models.test_ngram_storage import MUCH, fitted, make_steps_small, text
make_steps_small()
for length, memory_bytes in ((50_000, 1), (150_000, 1), (100_000, MUCH)):
    stream = text(length)
    tracemalloc.start()
    model = fitted(stream, memory_bytes, order=5)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(json.dumps([kept, peak, model.parameter_count() / length]))
"""


def test_a_fit_on_disk_takes_little_memory_whatever_the_text() -> None:
    """In a process of its own; two threads' arrays may or may not meet at the peak, which the bounds leave room for."""
    root = Path(__file__).parent.parent.parent
    answer = subprocess.run([sys.executable, "-c", FITS, root], capture_output=True, text=True, check=True)
    (kept, small, _), (_, large, _), in_memory = map(json.loads, answer.stdout.splitlines())
    assert all(json.loads(line)[2] > 1 / 3 for line in answer.stdout.splitlines())
    assert kept < 90_000  # bytes
    assert small < 1_500_000  # of the steps' own arrays
    assert large - small < 400_000  # four bytes a token; in memory it is ninety
    assert min(in_memory[:2]) > 4_000_000


def test_a_saved_model_is_looked_up_in_its_file_where_it_does_not_fit_into_memory(tmp_path: Path) -> None:
    stream, path = text(20_000), tmp_path / "model.safetensors"
    model = fitted(stream, 1)
    safetensors.torch.save_file(model.state_dict(), path)
    weights = safetensors.torch.load_file(path)
    for memory_bytes, in_file in ((1, True), (MUCH, False)):
        loaded = NGram(V, order=4, smoothing="kneser_ney", k=1.0, memory_bytes=memory_bytes)
        loaded.load_weights(weights)
        assert np.shares_memory(loaded.tables.trie.keys[3], weights["keys_3"].numpy()) == in_file
        assert np.array_equal(loaded.stream_losses(stream), model.stream_losses(stream))


@pytest.mark.parametrize("most", [1_000, 100_000])
def test_a_full_disk_is_an_error_of_one_line(most: int) -> None:
    """Full when the text is sorted, or when its tables are joined; a limit on the size of files stands for it."""
    stream, open_files = text(60_000), opened()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(PretrainError, match=r"model\.memory_bytes .*temporary: .*set TMPDIR") as caught:
            fitted(stream, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    del caught
    assert opened() == open_files


def test_arrays_on_disk_leave_no_file_open_and_are_written_like_others() -> None:
    open_files = opened()
    for shape in ((0,), (0, 3), (5, 0), (1000, 3)):
        array = empty(shape, np.int64, on_disk=True)
        array[:] = 7
        assert (array.shape, array.sum()) == (shape, 7 * array.size)
    del array
    assert opened() == open_files


def test_pieces_go_through_all_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_storage, "PIECE", 4)
    assert [(here.start, here.stop) for here in pieces(9)] == [(0, 4), (4, 8), (8, 9)]
    assert list(pieces(0)) == []


@pytest.mark.parametrize(("vocab_size", "hashed"), [(2**40, False), (2**30, False), (2**29, True)])
def test_keys_of_nearly_64_bits_are_found_where_no_hash_table_holds_them(vocab_size: int, hashed: bool) -> None:
    """A key and a link that do not fit 63 bits together are looked up by binary search."""
    largest = min(vocab_size**2, 2**63) - 1
    keys = np.array([0, 5, vocab_size + 3, largest - 1, largest])
    links = np.array([0, -1, 1, -2, 2], np.int32)
    trie = NGramTrie(2, vocab_size, [keys], [links], np.zeros(0, np.int16), hashed=True)
    assert (trie.slots[2] is not None) == hashed  # links take three bits
    found = trie.find(2, keys // vocab_size, keys % vocab_size)
    assert np.array_equal(found, [0, -3, 1, -3, 2])
    assert (trie.find(2, keys[2:3] // vocab_size, np.array([4])) == UNSEEN).all()
