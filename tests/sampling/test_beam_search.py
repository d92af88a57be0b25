"""Beam search: the best texts that there are, found without trying all of them."""

import itertools
import math

import pytest
import torch

from pretrain.errors import ConfigError
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.rnn import RNN
from pretrain.sampling.beam_search import BeamSearch
from pretrain.sampling.decodings import Greedy
from pretrain.sampling.generation import generate, generate_all

V, EOT = 4, 0
SETTINGS = {"seed": 1, "end_of_text": EOT, "device": torch.device("cpu")}


def gpt() -> GPT:
    torch.manual_seed(3)
    model = GPT(V, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.7)
    return model.eval()


def rnn() -> RNN:
    torch.manual_seed(5)
    model = RNN(V, cell="lstm", n_layer=1, n_embd=8, n_hidden=8, dropout=0.0, tied=False)
    with torch.no_grad():
        model.output.weight.normal_(std=2)
    return model.eval()


class Pairs(LanguageModel):
    """Log-probabilities of a token by the one before it."""

    context_length = 1

    def __init__(self, table) -> None:
        super().__init__()
        self.vocab_size = len(table)
        self.register_buffer("table", torch.tensor(table, dtype=torch.float64).log())

    def forward(self, tokens):
        return self.table[tokens]


@pytest.fixture(params=["gpt", "rnn", "pairs"])
def model(request):
    torch.manual_seed(7)
    table = torch.rand(V, V, dtype=torch.float64).softmax(1).tolist()
    return {"gpt": gpt, "rnn": rnn, "pairs": lambda: Pairs(table)}[request.param]()


@torch.inference_mode()
def every_text(model, prompt, max_tokens):
    """All texts of at most max_tokens with their log-probabilities, the end of text included."""
    found = {}
    for size in range(max_tokens + 1):
        for text in itertools.product(range(1, V), repeat=size):
            whole = [*text, EOT] if size < max_tokens else list(text)
            logs = model(torch.tensor([[*prompt, *whole]]))[0].double().log_softmax(1)
            found[text] = sum(float(logs[len(prompt) + place - 1, token]) for place, token in enumerate(whole))
    return found


def score(text, logprob, penalty, max_tokens):
    return logprob / min(len(text) + 1, max_tokens) ** penalty


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
def test_a_wide_beam_finds_what_trying_all_texts_finds(model, penalty):
    most, prompt = 3, [1, 2]
    texts = every_text(model, prompt, most)
    assert sum(map(math.exp, texts.values())) == pytest.approx(1, rel=1e-4)
    best = sorted(texts, key=lambda text: -score(text, texts[text], penalty, most))[:5]
    decoding = BeamSearch(width=V**most, length_penalty=penalty)
    found = generate(model, prompt, n=5, max_tokens=most, decoding=decoding, **SETTINGS)
    assert [tuple(one.tokens) for one in found] == best
    for one in found:
        assert one.logprob == pytest.approx(texts[tuple(one.tokens)], rel=1e-4)
        assert one.ended == ("length" if len(one.tokens) == most else "end_of_text")


@torch.inference_mode()
def by_hand(model, prompt, width, penalty, most):
    """The search as one would write it down, a beginning at a time; it never stops early."""
    beams, found = [((), 0.0)], []
    for length in range(1, most + 1):
        candidates = []
        for text, total in beams:
            logs = model(torch.tensor([[*prompt, *text]]))[0, -1].double().log_softmax(0).tolist()
            candidates += [((*text, token), total + logs[token]) for token in range(V)]
        candidates.sort(key=lambda one: -one[1])
        for text, total in candidates[:width]:
            if text[-1] == EOT or length == most:
                found.append((total / length**penalty, tuple(token for token in text if token != EOT)))
        beams = [one for one in candidates if one[0][-1] != EOT][:width]
    return [text for _, text in sorted(found, key=lambda one: -one[0])]


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_narrow_beam_is_the_search_by_hand(model, width, penalty):
    prompts = [[1, 2], [3], [2, 2, 1]]
    decoding = BeamSearch(width=width, length_penalty=penalty)
    found = generate_all(model, prompts, n=width, max_tokens=5, decoding=decoding, rows=3, **SETTINGS)
    for place, prompt in enumerate(prompts):
        expected = by_hand(model, prompt, width, penalty, 5)[:width]
        assert [tuple(one.tokens) for one in found[place * width : (place + 1) * width]] == expected


def test_a_beam_of_one_without_length_penalty_is_greedy(model):
    for prompt in ([1], [2, 3], [3, 3, 1]):
        one, other = (
            generate(model, prompt, n=1, max_tokens=6, decoding=decoding, **SETTINGS)[0]
            for decoding in (BeamSearch(width=1, length_penalty=0.0), Greedy())
        )
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-4)


def test_the_best_text_may_begin_with_a_less_probable_token():
    garden = Pairs([[1, 1, 1, 1], [0.01, 0.01, 0.54, 0.44], [0.3, 0.3, 0.2, 0.2], [0.01, 0.01, 0.01, 0.97]])
    greedy, beam = (
        generate(garden, [1], n=1, max_tokens=4, decoding=decoding, **SETTINGS)[0]
        for decoding in (Greedy(), BeamSearch(width=2, length_penalty=1.0))
    )
    assert greedy.tokens[0] == 2
    assert beam.tokens == [3, 3, 3, 3]
    assert beam.logprob > greedy.logprob


def test_the_search_goes_on_while_a_longer_text_may_become_better():
    late = Pairs([[1, 1, 1, 1], [0.5, 0.14, 0.22, 0.14], [0.01, 0.01, 0.97, 0.01], [0.97, 0.01, 0.01, 0.01]])
    (one,) = generate(late, [1], n=1, max_tokens=4, decoding=BeamSearch(width=2, length_penalty=1.0), **SETTINGS)
    assert one.tokens == [2, 2, 2, 2]


def test_texts_end_at_what_ends_them(model):
    decoding = BeamSearch(width=6, length_penalty=1.0)
    found = generate(model, [1], n=6, max_tokens=5, decoding=decoding, ends=lambda ids: len(ids) == 3, **SETTINGS)
    for one in found:
        assert (one.ended == "stop") == (len(one.tokens) == 3)
        assert len(one.logprobs) == 3 or one.ended == "end_of_text"
    assert any(one.ended == "stop" for one in found)


def test_impossible_tokens_are_never_part_of_a_text():
    only = Pairs([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = generate(only, [1], n=4, max_tokens=4, decoding=BeamSearch(width=8, length_penalty=0.0), **SETTINGS)
    assert {tuple(one.tokens) for one in found} == {(2,), (2, 1, 2), (2, 1, 2, 1)}
    assert all(math.isfinite(one.logprob) for one in found)


def test_more_texts_than_beginnings_are_refused(model):
    with pytest.raises(ConfigError, match=r"n=3 .*decoding.width=3"):
        generate(model, [1], n=3, max_tokens=2, decoding=BeamSearch(width=2, length_penalty=1.0), **SETTINGS)
