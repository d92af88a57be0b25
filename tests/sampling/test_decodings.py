"""What holds for every decoding that draws: every file in configs/decoding that names one, and extreme settings.

What holds for the others too is in test_generation.py.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain import cli, config
from pretrain.sampling.decodings import LIKELIEST, Greedy, Sampling, Temperature, TopK, TopP, smallest_set

FOLDER = Path(__file__).parents[2] / "configs" / "decoding"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in ("beam", "contrastive"))
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
    "min_p is 0": Sampling(temperature=1.0, min_p=0.0),
    "min_p is 1": Sampling(temperature=1.0, min_p=1.0),
    "typical is 0": Sampling(temperature=1.0, typical=0.0),
    "typical is 1": Sampling(temperature=1.0, typical=1.0),
    "typical": Sampling(temperature=1.0, typical=0.3),
    "all": Sampling(temperature=0.7, k=5, p=0.9, min_p=0.05, typical=0.9),
    "all, greedy": Sampling(temperature=0.0, k=5, p=0.9, min_p=0.05, typical=0.9),
}
# Typical sampling may leave out what is more probable than expected.
UNORDERED = ("typical", "typical is 0", "all")
FEW = settings(max_examples=25)  # of each of many decodings
LOGIT = st.floats(-1e4, 1e4) | st.sampled_from([0.0, -math.inf, -1e300, 1e300])
LOGITS = st.lists(LOGIT, min_size=1, max_size=12).filter(lambda logits: max(logits) > -math.inf)


def row(logits) -> Tensor:
    return torch.tensor([logits], dtype=torch.float64)


def probabilities(decoding, logits) -> list[float]:
    (result,) = decoding(row(logits)).softmax(dim=1).tolist()
    return result


def named(name):
    if name in EXTREME:
        return EXTREME[name]
    return config.build(config.Part(cli._composed("sample", [f"decoding={name}"])["decoding"]))


@pytest.fixture(params=[*NAMES, *EXTREME], scope="module")
def decoding(request):
    return named(request.param)


@pytest.fixture(params=[name for name in (*NAMES, *EXTREME) if name not in UNORDERED], scope="module")
def ordered(request):
    return named(request.param)


@FEW
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


@FEW
@given(logits=LOGITS)
def test_a_more_probable_token_never_becomes_less_probable_than_another(ordered, logits):
    before, after = row(logits).softmax(dim=1)[0].tolist(), probabilities(ordered, logits)
    for one in range(len(logits)):
        for other in range(len(logits)):
            if before[one] > before[other]:
                assert after[one] >= after[other]


@FEW
@given(logits=LOGITS)
def test_the_most_probable_token_is_always_allowed(ordered, logits):
    result = probabilities(ordered, logits)
    assert max(result[i] for i, logit in enumerate(logits) if logit == max(logits)) == max(result) > 0


@FEW
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
    assert probabilities(Sampling(temperature=0.0, min_p=0.5, typical=0.5), logits) == expected


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


def set_by_hand(logits, p) -> set[int]:
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
    chosen = set_by_hand(logits, p)
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


def test_a_temperature_near_zero_is_greedy_in_fp32_too():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert Temperature(temperature=1e-310)(logits).softmax(1).tolist() == [[0.0, 1.0, 0.0]]


@given(
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True),
    share=st.integers(0, 997).map(lambda prime: prime / 998.5),
)
def test_min_p_keeps_what_has_a_share_of_the_greatest_probability(weights, share):
    kept = [weight if weight >= share * max(weights) else 0 for weight in weights]
    decoding = Sampling(temperature=1.0, min_p=share)
    expected = [weight / sum(kept) for weight in kept]
    assert probabilities(decoding, [math.log(weight) for weight in weights]) == pytest.approx(expected)


@given(
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True),
    p=st.integers(1, 997).map(lambda prime: prime / 998.5),
)
def test_typical_keeps_the_least_astonishing_tokens_that_reach_p(weights, p):
    model = [weight / sum(weights) for weight in weights]
    entropy = -sum(q * math.log(q) for q in model)
    kept, mass = [], 0.0
    for token in sorted(range(len(model)), key=lambda token: abs(-math.log(model[token]) - entropy)):
        if mass < p:
            kept.append(token)
            mass += model[token]
    expected = [q / mass if token in kept else 0.0 for token, q in enumerate(model)]
    found = probabilities(Sampling(temperature=1.0, typical=p), [math.log(weight) for weight in weights])
    assert found == pytest.approx(expected)


@given(
    logits=st.lists(st.floats(-5, 5), min_size=2, max_size=8),
    seen=st.lists(st.booleans(), min_size=8, max_size=8),
    penalty=st.floats(0.5, 3),
)
def test_the_penalty_divides_positive_logits_of_what_was_said_and_multiplies_the_others(logits, seen, penalty):
    expected = [
        (logit / penalty if logit > 0 else logit * penalty) if said else logit
        for logit, said in zip(logits, seen, strict=False)
    ]
    penalised = Sampling(temperature=1.0, repetition_penalty=penalty)(row(logits), torch.tensor([seen[: len(logits)]]))
    assert penalised.tolist()[0] == pytest.approx(expected)
    greedy = Greedy(repetition_penalty=penalty)(row(logits), torch.tensor([seen[: len(logits)]]))
    assert int(greedy.argmax()) == expected.index(max(expected))


def test_truncations_are_applied_one_after_the_other():
    logits = [math.log(weight) for weight in (50, 30, 10, 6, 4)]
    assert probabilities(Sampling(temperature=1.0, k=3, p=0.85), logits) == pytest.approx([5 / 8, 3 / 8, 0, 0, 0])
    assert probabilities(Sampling(temperature=1.0, p=0.95, min_p=0.5), logits) == pytest.approx([5 / 8, 3 / 8, 0, 0, 0])


@pytest.mark.parametrize("kind", ["spread", "even", "few values", "peaked"])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.999])
def test_in_a_large_vocabulary_the_smallest_set_is_the_one_that_sorting_finds(kind, p):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 10 * LIKELIEST, generator=generator, dtype=torch.float64)
    logits = {"spread": noise, "even": noise * 0, "few values": noise.round(), "peaked": 8 * noise}[kind]
    ordered, ids = logits.sort(dim=1, descending=True, stable=True)
    chances = ordered.softmax(1)
    outside = (chances.cumsum(1) - chances >= p) & (torch.arange(logits.shape[1]) > 0)
    expected = torch.full_like(logits, -torch.inf).scatter_(1, ids, ordered.masked_fill(outside, -torch.inf))
    assert torch.equal(smallest_set(logits, logits, p), expected)


def test_configs_of_older_runs_are_built():
    module = "pretrain.sampling.decodings"
    old = {"Greedy": {}, "Temperature": {}, "TopK": {"k": 2}, "TopP": {"p": 0.5}}
    for name, values in old.items():
        part = {"_target_": f"{module}.{name}", **values} | ({} if name == "Greedy" else {"temperature": 1.0})
        config.check({"decoding": part, "sample": {"prompt": "", "max_tokens": 1}}, _Old)
        assert probabilities(config.build(config.Part(part)), [0.0, 3.0, 1.0])[1] > 0.5


@dataclasses.dataclass
class _Old:
    decoding: config.Part
    sample: config.SampleSettings
