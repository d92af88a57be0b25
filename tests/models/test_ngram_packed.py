"""A quantised model: few bytes, and almost the same distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.errors import CheckpointError, ConfigError
from pretrain.models.ngram import NGram
from pretrain.models.ngram_packed import EXACT, _bits, _borders, _numbers, _values

EOT = 0


@settings(deadline=None)
@given(st.integers(1, 17), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_numbers_packed_in_bits_come_back(bits: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**bits, count)
    assert np.array_equal(_numbers(_bits(numbers, bits), bits, count), numbers)


@pytest.mark.parametrize("largest", [0, 1, 191, 192, 200, 10_000, 10**7])
def test_small_counts_are_kept_and_large_ones_rounded_by_less_than_a_step(largest: int) -> None:
    counts = np.unique(np.geomspace(1, max(1, largest), 500).astype(np.int64))
    codes = np.searchsorted(_borders(largest), counts, side="right")
    assert codes.max() <= 255
    again = _values(largest)[codes]
    small = counts <= EXACT
    assert np.array_equal(again[small], counts[small])
    ratio = max(1.0, largest / EXACT) ** (1 / 60)
    assert (np.abs(np.log(again / counts)) <= np.log(ratio) + 0.01).all()


@pytest.fixture(scope="module")
def stream() -> np.ndarray:
    generator = np.random.default_rng(0)
    text = np.minimum(generator.zipf(1.4, 60_000), 300)
    text[::50] = EOT
    return np.append(text, EOT)


@pytest.mark.parametrize("smoothing", ["kneser_ney", "witten_bell", "add_k"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_quantised_model_is_small_loads_again_and_loses_little(
    stream: np.ndarray, smoothing: str, order: int
) -> None:
    exact, small, loaded = (
        NGram(301, order=order, smoothing=smoothing, k=0.5, quantised=quantised)  # type: ignore[arg-type]  # a text
        for quantised in (False, True, True)
    )
    exact.fit(stream, EOT)
    small.fit(stream, EOT)
    loaded.load_weights(small.state_dict())
    losses = small.stream_losses(stream)
    assert np.array_equal(loaded.stream_losses(stream), losses)
    assert losses.mean() == pytest.approx(exact.stream_losses(stream).mean(), rel=1e-3)
    rows = torch.from_numpy(stream[:60].reshape(4, 15))
    assert (small(rows).exp().sum(2) - 1).abs().max() < 1e-9
    sizes = [sum(table.nbytes for table in model.state_dict().values()) for model in (exact, small)]
    assert sizes[1] < sizes[0] / (4 if order > 1 else 1)


def test_tables_that_do_not_fit_each_other_are_refused(stream: np.ndarray) -> None:
    model = NGram(301, order=3, smoothing="kneser_ney", k=1.0, quantised=True)
    model.fit(stream, EOT)
    weights = model.state_dict()
    for name in ("counts_1", "children_2", "tokens_3", "is_node_2", "codes_2", "tails_2"):
        with pytest.raises(CheckpointError, match=name.partition("_")[0]):
            model.load_weights(weights | {name: weights[name][:-1]})
    with pytest.raises(CheckpointError, match="is unknown"):
        NGram(301, order=3, smoothing="kneser_ney", k=1.0).load_weights(weights)
    with pytest.raises(ConfigError, match=r"model\.quantised=true"):
        NGram(301, order=3, smoothing="arpa", k=1.0, quantised=True, path="a.arpa")
