"""Writing, token by token: what is drawn, when it ends, and what its probability is."""

import collections
import functools
import math
from pathlib import Path

import pytest
import torch

from pretrain import cli, config
from pretrain.errors import SamplingError
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.mlp import MLP
from pretrain.sampling.decodings import Greedy, Sampling, Temperature, TopK, TopP
from pretrain.sampling.generation import generate, generate_all

V, EOT, CONTEXT = 11, 0, 12
NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "decoding").glob("*.yaml"))
COMBINED = ["decoding=top_p", "decoding.k=6", "decoding.min_p=0.02", "decoding.typical=0.95"]
COMBINED += ["decoding.repetition_penalty=1.3", "decoding.temperature=0.8"]
WORDS = {name: [f"decoding={name}"] for name in NAMES} | {"combined": COMBINED}
WORDS |= {"greedy, penalised": ["decoding=greedy", "decoding.repetition_penalty=1.5"]}
DRAW = Temperature(temperature=1.0)


class Fixed(LanguageModel):
    """The same logits after every token, but after those in `after`."""

    context_length = None

    def __init__(self, logits, after=None):
        super().__init__()
        self.vocab_size = len(logits)
        table = torch.tensor([logits] * len(logits))
        for token, other in (after or {}).items():
            table[token] = torch.tensor(other)
        self.table = torch.nn.Parameter(table)

    def forward(self, tokens):
        return self.table[tokens]

    def next_logits(self, tokens, lengths, state=None):
        logits, grown = super().next_logits(tokens, lengths, state)
        return logits, grown | {"outputs": torch.nn.functional.one_hot(tokens, self.vocab_size).float()}


def gpt(end_of_text_bias: float = -20.0) -> GPT:
    """A random GPT whose logits are far apart, so that greedy is never a matter of rounding."""
    torch.manual_seed(0)
    model = GPT(V, context_length=CONTEXT, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=1.0 if "position" in name else 0.5)
        embedding = model.token_embedding.weight  # its last column serves the end of text alone
        embedding[:, -1] = 0
        embedding[EOT, -1] = 1
        model.norm.weight.fill_(1)
        model.norm.bias.zero_()
        model.norm.weight[-1] = 0
        model.norm.bias[-1] = end_of_text_bias
    return model


class Telling(MLP):
    """An MLP that tells its outputs, as contrastive search asks: the embeddings of the new tokens."""

    def next_logits(self, tokens, lengths, state=None):
        logits, grown = super().next_logits(tokens, lengths, state)
        return logits, grown | {"outputs": self.embedding(tokens)}


def mlp() -> MLP:
    torch.manual_seed(0)
    model = Telling(V, context_length=3, n_embd=8, n_hidden=16)
    with torch.no_grad():
        model.output.weight.normal_()
        model.output.bias[EOT] = -20
    return model


@pytest.fixture(params=["gpt", "mlp"])
def model(request):
    return {"gpt": gpt, "mlp": mlp}[request.param]()


@functools.cache
def named(name):
    return config.build(config.Part(cli._composed("sample", WORDS[name])["decoding"]))


@pytest.fixture(params=WORDS)
def decoding(request):
    return named(request.param)


@pytest.fixture(params=[name for name in WORDS if name != "beam"])
def stepwise(request):
    """Those in which what comes later changes nothing."""
    return named(request.param)


def write(model, prompt=(1, 2, 3), n=1, max_tokens=8, decoding=DRAW, seed=1):
    return generate(
        model,
        list(prompt),
        n=n,
        max_tokens=max_tokens,
        decoding=decoding,
        seed=seed,
        end_of_text=EOT,
        device=torch.device("cpu"),
    )


@torch.inference_mode()
def logits_after(model, tokens):
    """Of the last position, from forward on everything so far; the model is in eval mode."""
    return model.eval()(torch.tensor([tokens]))[0, -1].double()


def logprob_of(model, prompt, tokens, seen=10**9):
    """The sum by hand, each from forward on the last `seen` tokens."""
    total, so_far = 0.0, list(prompt)
    for token in tokens:
        total += float(logits_after(model, so_far[-seen:]).log_softmax(0)[token])
        so_far.append(token)
    return total


def test_the_number_of_samples_and_of_tokens_is_as_asked(model, decoding):
    samples = write(model, n=3, max_tokens=5, decoding=decoding)
    assert [len(sample.tokens) for sample in samples] == [5, 5, 5]
    assert all(0 < token < V for sample in samples for token in sample.tokens)


def test_no_tokens_can_be_asked_for(model):
    (sample,) = write(model, max_tokens=0)
    assert (sample.tokens, sample.logprob) == ([], 0.0)


def test_the_same_seed_writes_the_same(model, decoding):
    assert write(model, n=3, decoding=decoding) == write(model, n=3, decoding=decoding)


def test_other_seeds_and_other_rows_write_other_texts(model):
    texts = {tuple(sample.tokens) for seed in range(10) for sample in write(model, n=4, seed=seed)}
    assert len(texts) > 35
    write(model, seed=2**63 - 1)


def test_the_first_of_many_samples_equals_the_only_one(model, decoding):
    many, (only,) = write(model, n=4, decoding=decoding), write(model, decoding=decoding)
    assert many[0].tokens == only.tokens
    assert many[0].logprob == pytest.approx(only.logprob, rel=1e-5)
    assert [s.tokens for s in many[:3]] == [s.tokens for s in write(model, n=3, decoding=decoding)]


def test_a_longer_text_begins_with_the_shorter_one(model, stepwise):
    (short,), (long,) = (write(model, max_tokens=size, decoding=stepwise) for size in (4, 8))
    assert long.tokens[:4] == short.tokens


def test_greedy_needs_no_seed(model):
    samples = [sample for seed in range(5) for sample in write(model, n=2, decoding=Greedy(), seed=seed)]
    assert len({tuple(sample.tokens) for sample in samples}) == 1


@pytest.mark.parametrize("same", [Temperature(temperature=0), TopK(k=1, temperature=1), TopP(p=0, temperature=1)])
def test_decodings_that_leave_one_token_write_what_greedy_writes(model, same):
    assert write(model, decoding=same)[0].tokens == write(model, decoding=Greedy())[0].tokens


@pytest.mark.parametrize("prompt", [[1], [1, 2, 3, 4], [5] * (CONTEXT - 1)])
def test_greedy_with_the_cache_equals_greedy_on_everything_so_far(prompt):
    model = gpt()
    room = CONTEXT - len(prompt) + 1
    (sample,) = write(model, prompt, max_tokens=room, decoding=Greedy())
    so_far = list(prompt)
    for _ in range(room):
        so_far.append(int(logits_after(model, so_far).argmax()))
    assert sample.tokens == so_far[len(prompt) :]
    assert len(set(sample.tokens)) > 1 or room < 3


@pytest.mark.parametrize("length", [1, CONTEXT, CONTEXT + 1, 5 * CONTEXT])
def test_writing_goes_on_beyond_the_context(model, length):
    prompt = [1 + place % 7 for place in range(length)]
    (sample,) = write(model, prompt, max_tokens=3 * CONTEXT)
    assert len(sample.tokens) == 3 * CONTEXT
    assert math.isfinite(sample.logprob)


def test_a_gpt_beyond_its_context_reads_the_last_half_of_it_again():
    model, prompt = gpt(), [1, 2, 3, 4]
    (sample,) = write(model, prompt, max_tokens=3 * CONTEXT)
    logprob, seen = 0.0, list(prompt)
    for token in sample.tokens:
        if len(seen) > CONTEXT:
            seen = seen[-CONTEXT // 2 :]
        logprob += float(logits_after(model, seen).log_softmax(0)[token])
        seen.append(token)
    assert sample.logprob == pytest.approx(logprob, rel=1e-4)


def test_a_model_of_three_tokens_sees_the_last_three():
    model = mlp()
    (sample,) = write(model, [1, 2, 3, 4, 5], max_tokens=20)
    (same,) = write(model, [9, 9, 3, 4, 5], max_tokens=20)
    assert sample == same


def test_the_prompt_is_read(model):
    assert len({tuple(write(model, [1, token], decoding=Greedy())[0].tokens) for token in range(1, V)}) > 3


def test_logprob_is_the_sum_by_hand_under_the_model_itself(model, decoding):
    for sample in write(model, n=3, decoding=decoding):
        assert sample.logprob == pytest.approx(logprob_of(model, [1, 2, 3], sample.tokens), rel=1e-4)
        for place, logprob in enumerate(sample.logprobs):
            one = logprob_of(model, [1, 2, 3, *sample.tokens[:place]], [sample.tokens[place]])
            assert logprob == pytest.approx(one, rel=1e-3, abs=1e-5)


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 1], [2, 2], [1, 2, 3], [9, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9]]


def write_all(model, prompts=PROMPTS, rows=1, n=2, decoding=DRAW, **others):
    settings = {"max_tokens": 8, "seed": 1, "end_of_text": EOT, "device": torch.device("cpu"), **others}
    return generate_all(model, prompts, n=n, decoding=decoding, rows=rows, **settings)


def test_prompts_of_any_length_together_are_continued_as_each_alone(model, decoding):
    alone = write_all(model, rows=1, decoding=decoding)
    together = write_all(model, rows=6, decoding=decoding)
    assert [sample.tokens for sample in together] == [sample.tokens for sample in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-3, abs=1e-4)
    assert len({tuple(sample.tokens) for sample in alone}) > 4


def test_the_same_prompt_twice_gets_texts_of_its_own(model):
    samples = write_all(model, [[1, 2, 3]] * 2, rows=2, max_tokens=12)
    assert len({tuple(sample.tokens) for sample in samples}) == 4


def test_ragged_rows_that_end_at_different_times_are_the_same_at_every_batch_size():
    model = gpt(end_of_text_bias=0.0)
    prompts = [[1 + (start + place) % 9 for place in range(1 + start % 5)] for start in range(12)]
    hot = Temperature(temperature=3.0)
    by_size = [write_all(model, prompts, rows=rows, decoding=hot, max_tokens=14) for rows in (1, 3, 12)]
    assert len({len(sample.tokens) for sample in by_size[0]}) > 5
    assert {sample.ended for sample in by_size[0]} == {"end_of_text", "length"}
    for samples in by_size[1:]:
        assert [sample.tokens for sample in samples] == [sample.tokens for sample in by_size[0]]


def test_long_texts_beside_others_that_have_ended_are_what_they_are_alone():
    model = Fixed([-2.4, 0.0, 0.5, 1.0])
    model.context_length = 1
    by_size = [write_all(model, [[1]] * 6, rows=rows, max_tokens=150) for rows in (1, 6)]
    assert [sample.tokens for sample in by_size[0]] == [sample.tokens for sample in by_size[1]]
    sizes = sorted(len(sample.tokens) for sample in by_size[0])
    assert sizes[len(sizes) // 2] < 64 < sizes[-1]  # a row's random numbers are drawn 64 at a time


def test_of_a_prompt_beyond_the_context_the_end_is_read():
    model, long = gpt(), [1 + place % 9 for place in range(40)]
    assert write(model, long)[0].tokens == write(model, long[-CONTEXT:])[0].tokens
    assert write(model, long)[0].tokens != write(model, [*long[:-1], 3])[0].tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_text_ends_where_it_is_said_to(model, name):
    tokens = write(model, decoding=named(name), max_tokens=12)[0].tokens
    ends = lambda so_far: len(so_far) > 3 and so_far[-1] == so_far[-2]  # noqa: E731
    for sample in write_all(model, decoding=named(name), max_tokens=12, ends=ends, rows=6):
        first = next((size for size in range(13) if ends(sample.tokens[:size])), None)
        assert (sample.ended == "stop") == (first is not None)
        assert first in (None, len(sample.tokens))
    assert len(tokens) == 12


def test_every_token_is_heard_in_its_order(model, decoding):
    heard = collections.defaultdict(list)
    samples = write_all(model, n=3, rows=6, decoding=decoding, heard=lambda text, token: heard[text].append(token))
    order = sorted(range(len(PROMPTS)), key=lambda number: len(PROMPTS[number]))
    for place, number in enumerate(order):
        for each in range(3):
            assert heard[place * 3 + each] == samples[number * 3 + each].tokens


def test_a_penalty_makes_texts_repeat_less(model):
    plain, penalised = (
        write(model, max_tokens=30, n=8, decoding=Sampling(temperature=0.7, repetition_penalty=penalty))
        for penalty in (1.0, 5.0)
    )
    kinds = [sum(len(set(sample.tokens[:8])) for sample in samples) for samples in (plain, penalised)]
    assert kinds[1] > kinds[0] + 8


def test_the_penalty_counts_the_prompt():
    model = Fixed([-9.0, 2.0, 1.5, 0.0])
    penalised = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert write(model, [3, 3], max_tokens=4, decoding=Greedy())[0].tokens == [1, 1, 1, 1]
    assert write(model, [3, 3], max_tokens=1, decoding=penalised)[0].tokens == [1]
    assert write(model, [3, 1], max_tokens=2, decoding=penalised)[0].tokens == [2, 1]


def test_writing_ends_at_the_end_of_text_and_leaves_it_out():
    after = {token: [0.0 if other == (token + 1) % 6 else -math.inf for other in range(6)] for token in range(6)}
    model = Fixed([0.0] * 6, after)
    (sample,) = write(model, [2], max_tokens=50)
    assert sample.tokens == [3, 4, 5]
    assert sample.logprob == 0.0


def test_each_sample_ends_by_itself_and_counts_its_end_of_text():
    logits = [1.0, 1.0, 0.5, 0.0]
    model = Fixed(logits)
    probabilities = torch.tensor(logits, dtype=torch.float64).log_softmax(0).tolist()
    samples = write(model, [1], n=40, max_tokens=4)
    lengths = [len(sample.tokens) for sample in samples]
    assert set(lengths) == {0, 1, 2, 3, 4}
    for sample in samples:
        assert EOT not in sample.tokens
        end = [EOT] if len(sample.tokens) < 4 else []
        assert sample.logprob == pytest.approx(sum(probabilities[token] for token in sample.tokens + end))


def test_a_gpt_ends_texts_of_different_length():
    model = gpt(end_of_text_bias=0.0)
    samples = write(model, n=30, max_tokens=6, decoding=Temperature(temperature=3.0))
    assert len({len(sample.tokens) for sample in samples}) > 2
    for sample in samples:
        tokens = sample.tokens + ([EOT] if len(sample.tokens) < 6 else [])
        assert sample.logprob == pytest.approx(logprob_of(model, [1, 2, 3], tokens), rel=1e-4)


def test_frequencies_of_samples_are_the_probabilities():
    logits = [-math.inf, 0.0, 1.0, 2.0, -1.0, -2.0, -math.inf, 0.5]
    expected = [4000 * p for p in torch.tensor(logits).double().softmax(0).tolist()]
    drawn = collections.Counter(sample.tokens[0] for sample in write(Fixed(logits), [1], n=4000, max_tokens=1))
    assert not drawn.keys() & {0, 6}
    chi_square = sum((drawn[token] - mean) ** 2 / mean for token, mean in enumerate(expected) if mean)
    assert chi_square < 20.5  # 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("name", [name for name in WORDS if name not in ("beam", "contrastive")])
def test_frequencies_are_those_that_each_decoding_leaves(name):
    logits = [-math.inf, 0.0, 1.0, 2.0, -1.0, -2.0, 0.5, 1.5]
    decoding = named(name)
    seen = torch.zeros(1, 8, dtype=torch.bool).index_fill_(1, torch.tensor([2, 5]), True)
    chances = decoding(torch.tensor([logits]), seen).softmax(1)[0].tolist()
    drawn = collections.Counter(
        sample.tokens[0] for sample in write(Fixed(logits), [2, 5], n=1500, max_tokens=1, decoding=decoding)
    )
    assert all(chances[token] for token in drawn)
    assert sum((drawn[token] - 1500 * p) ** 2 / (1500 * p) for token, p in enumerate(chances) if p) < 22.5  # 6 degrees


def test_frequencies_of_tokens_along_one_text_are_the_probabilities():
    logits = [-math.inf, 0.0, 1.0, 2.0]
    expected = [3000 * p for p in torch.tensor(logits).double().softmax(0).tolist()]
    drawn = collections.Counter(token for seed in range(3) for token in write_long(Fixed(logits), seed))
    chi_square = sum((drawn[token] - mean) ** 2 / mean for token, mean in enumerate(expected) if mean)
    assert chi_square < 13.8  # 2 degrees of freedom, p = 0.001


def write_long(model, seed):
    model.context_length = 1  # so that a step costs the same however long the text is
    return write(model, [1], max_tokens=1000, seed=seed)[0].tokens


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("prompt", [[1], [2]], ids=["at once", "after some tokens"])
def test_unusable_logits_are_refused(decoding, value, prompt):
    after = {token: [-9.0] * token + [value] + [-9.0] * (5 - token) for token in (1, 3)}
    onwards = {2: [-math.inf, -math.inf, -math.inf, 0.0, -math.inf, -math.inf]}
    with pytest.raises(SamplingError, match=r"logits.*step=N"):
        write(Fixed([0.0] * 6, after | onwards), prompt, decoding=decoding)


def test_a_model_that_allows_no_token_is_refused(decoding):
    with pytest.raises(SamplingError, match="no token any probability"):
        write(Fixed([-math.inf] * 4), [1], decoding=decoding)


def test_damaged_weights_are_refused(model):
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(SamplingError, match="NaN"):
        write(model)


def test_a_text_that_has_ended_may_meet_unusable_logits():
    nan = [math.nan] * 4
    model = Fixed([0.0, 1.0, 1.0, 1.0], {EOT: nan})
    samples = write(model, [1], n=20, max_tokens=6)
    assert any(len(sample.tokens) < 5 for sample in samples)
    assert any(len(sample.tokens) == 6 for sample in samples)
    assert all(math.isfinite(sample.logprob) for sample in samples)
