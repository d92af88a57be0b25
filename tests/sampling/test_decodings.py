"""What holds for every decoding. One test runs over all of them: every file in configs/decoding."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from pretrain import cli, config
from pretrain.sampling.decodings import Greedy, Temperature, TopK, TopP

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "decoding").glob("*.yaml"))
EXTREME = {
    "cold": Temperature(temperature=1e-310),
    "hot": Temperature(temperature=1e300),
    "k is 1": TopK(k=1, temperature=1.0),
    "k is 3, cold": TopK(k=3, temperature=1e-310),
    "k beyond the vocabulary": TopK(k=10**9, temperature=0.5),
    "k, greedy": TopK(k=5, temperature=0.0),
    "p is 0": TopP(p=0.0, temperature=1.0),
    "p is 1": TopP(p=1.0, temperature=2.0),
    "p is nearly 1": TopP(p=1 - 1e-16, temperature=1.0),
    "p, cold": TopP(p=0.9, temperature=1e-310),
    "p, greedy": TopP(p=0.9, temperature=0.0),
}
LOGIT = st.floats(-1e4, 1e4) | st.sampled_from([0.0, -math.inf, -1e300, 1e300])
LOGITS = st.lists(LOGIT, min_size=1, max_size=12).filter(lambda logits: max(logits) > -math.inf)


def row(logits) -> Tensor:
    return torch.tensor([logits], dtype=torch.float64)


def probabilities(decoding, logits) -> list[float]:
    (result,) = decoding(row(logits)).softmax(dim=1).tolist()
    return result


@pytest.fixture(params=[*NAMES, *EXTREME], scope="module")
def decoding(request):
    if request.param in EXTREME:
        return EXTREME[request.param]
    return config.build(config.Part(cli._composed("sample", [f"decoding={request.param}"])["decoding"]))


@given(logits=LOGITS)
@example([-5.0])
@example([-math.inf, -3.0, -math.inf])
@example([-7.0, -8.0, -9.0])
@example([1e300, -1e300, 0.0])
@example([0.0] * 12)
def test_the_result_is_a_distribution_over_allowed_tokens(decoding, logits):
    result = probabilities(decoding, logits)
    assert sum(result) == pytest.approx(1)
    assert all(p >= 0 for p in result)
    assert all(p == 0 for p, logit in zip(result, logits, strict=True) if logit == -math.inf)


@given(logits=LOGITS)
def test_a_more_probable_token_never_becomes_less_probable_than_another(decoding, logits):
    before, after = row(logits).softmax(dim=1)[0].tolist(), probabilities(decoding, logits)
    for one in range(len(logits)):
        for other in range(len(logits)):
            if before[one] > before[other]:
                assert after[one] >= after[other]


@given(logits=LOGITS)
def test_the_most_probable_token_is_always_allowed(decoding, logits):
    result = probabilities(decoding, logits)
    assert max(result[i] for i, logit in enumerate(logits) if logit == max(logits)) == max(result) > 0


@given(rows=st.lists(st.lists(st.floats(-50, 50), min_size=6, max_size=6), min_size=1, max_size=4))
def test_rows_do_not_touch_each_other(decoding, rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    before = logits.clone()
    together = decoding(logits)
    assert torch.equal(together, torch.cat([decoding(one[None]) for one in logits]))
    assert torch.equal(logits, before)  # nor are the model's own logits changed
    assert together.shape == logits.shape


@given(logits=LOGITS)
@example([1.0, 3.0, 3.0])
def test_temperature_zero_is_greedy_in_all_that_have_one(logits):
    expected = probabilities(Greedy(), logits)
    assert expected == [float(place == logits.index(max(logits))) for place in range(len(logits))]
    assert probabilities(Temperature(temperature=0.0), logits) == expected
    assert probabilities(TopK(k=4, temperature=0.0), logits) == expected
    assert probabilities(TopP(p=0.9, temperature=0.0), logits) == expected


@given(logits=st.lists(st.floats(-30, 30), min_size=1, max_size=10), temperature=st.floats(0.05, 20))
def test_temperature_divides_the_logits(logits, temperature):
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    expected = [weight / sum(weights) for weight in weights]
    assert probabilities(Temperature(temperature=temperature), logits) == pytest.approx(expected)


@given(logits=st.lists(st.integers(-30, 30), min_size=1, max_size=10, unique=True), k=st.integers(1, 14))
def test_top_k_keeps_the_k_most_probable(logits, k):
    best = sorted(logits, reverse=True)[:k]
    weights = [math.exp(logit - max(logits)) if logit in best else 0.0 for logit in logits]
    expected = [weight / sum(weights) for weight in weights]
    assert probabilities(TopK(k=k, temperature=1.0), logits) == pytest.approx(expected)


def test_top_k_beyond_the_vocabulary_changes_nothing():
    logits = row([1.0, -math.inf, 2.5, 0.0])
    assert torch.equal(TopK(k=5, temperature=1.0)(logits).softmax(1), logits.softmax(1))


def smallest_set(logits, p) -> set[int]:
    """Brute force: of the sets whose probability is at least p the smallest one, of those the most probable."""
    model = row(logits).softmax(dim=1)[0].tolist()
    sets = [{i for i in range(len(model)) if mask >> i & 1} for mask in range(1, 2 ** len(model))]
    enough = [chosen for chosen in sets if sum(model[i] for i in chosen) >= p - 1e-12]
    return min(enough, key=lambda chosen: (len(chosen), -sum(model[i] for i in chosen)))


@given(
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True),
    p=st.integers(1, 997).map(lambda prime: prime / 998.5),
)
@example([5, 3, 2], 0.5)
def test_top_p_keeps_exactly_the_smallest_set_that_reaches_p(weights, p):
    logits = [math.log(weight) for weight in weights]
    chosen = smallest_set(logits, p)
    total = sum(weights[i] for i in chosen)
    expected = [weight / total if i in chosen else 0.0 for i, weight in enumerate(weights)]
    assert probabilities(TopP(p=p, temperature=1.0), logits) == pytest.approx(expected)


def test_top_p_zero_keeps_one_token_and_top_p_one_keeps_all():
    logits = [1.0, 3.0, 3.0, -40.0, -math.inf]
    assert probabilities(TopP(p=0.0, temperature=1.0), logits) == [0.0, 1.0, 0.0, 0.0, 0.0]
    everything = probabilities(TopP(p=1.0, temperature=1.0), logits)
    assert everything == pytest.approx(row(logits).softmax(1)[0].tolist())
    assert everything[3] > 0


def test_top_p_looks_at_the_distribution_after_the_temperature():
    logits = [math.log(0.6), math.log(0.4)]
    assert probabilities(TopP(p=0.65, temperature=1.0), logits) == pytest.approx([0.6, 0.4])
    assert probabilities(TopP(p=0.65, temperature=0.5), logits) == [1.0, 0.0]  # 0.69 and 0.31
