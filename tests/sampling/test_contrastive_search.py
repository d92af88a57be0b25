"""Contrastive search, against the definition worked out on everything so far."""

import pytest
import torch
import torch.nn.functional as F

from pretrain.errors import ConfigError
from pretrain.models.gpt import GPT
from pretrain.models.mlp import MLP
from pretrain.models.rnn import RNN
from pretrain.sampling.contrastive_search import ContrastiveSearch
from pretrain.sampling.decodings import Greedy
from pretrain.sampling.generation import generate, generate_all

V, EOT, CONTEXT = 20, 0, 16
SETTINGS = {"seed": 1, "end_of_text": EOT, "device": torch.device("cpu")}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


def gpt() -> GPT:
    torch.manual_seed(0)
    model = GPT(V, context_length=CONTEXT, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.4)
    return model.eval()


def rnn() -> RNN:
    torch.manual_seed(0)
    model = RNN(V, cell="gru", n_layer=2, n_embd=16, n_hidden=16, dropout=0.0, tied=False)
    with torch.no_grad():
        model.output.weight.normal_(std=1.0)
    return model.eval()


@pytest.fixture(params=["gpt", "rnn"])
def model(request):
    return {"gpt": gpt, "rnn": rnn}[request.param]()


@torch.inference_mode()
def outputs_of(model, tokens):
    row = torch.tensor([tokens])
    hidden = model._hidden(row, None)
    return F.normalize((hidden[0] if isinstance(hidden, tuple) else hidden)[0], dim=1)


@torch.inference_mode()
def by_hand(model, prompt, k, alpha, most):
    so_far = list(prompt)
    for _ in range(most):
        probabilities = model(torch.tensor([so_far]))[0, -1].softmax(0)
        values, candidates = probabilities.topk(k)
        scores = []
        for value, candidate in zip(values.tolist(), candidates.tolist(), strict=True):
            outputs = outputs_of(model, [*so_far, candidate])
            scores.append((1 - alpha) * value - alpha * float((outputs[:-1] @ outputs[-1]).max()))
        so_far.append(int(candidates[scores.index(max(scores))]))
    return so_far[len(prompt) :]


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
def test_each_token_is_the_best_by_the_definition(model, alpha):
    decoding = ContrastiveSearch(k=4, alpha=alpha)
    found = generate_all(model, PROMPTS, n=1, max_tokens=9, decoding=decoding, rows=3, **SETTINGS)
    for prompt, one in zip(PROMPTS, found, strict=True):
        expected = by_hand(model, prompt, 4, alpha, 9)
        end = expected.index(EOT) if EOT in expected else 9
        assert one.tokens == expected[:end]


def test_without_alpha_it_is_greedy(model):
    for prompt in PROMPTS:
        one, other = (
            generate(model, prompt, n=1, max_tokens=30, decoding=decoding, **SETTINGS)[0]
            for decoding in (ContrastiveSearch(k=5, alpha=0.0), Greedy())
        )
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, rel=1e-3, abs=1e-5)


def test_one_candidate_or_more_than_there_are_ids_will_do(model):
    for k in (1, 10**6):
        (one,) = generate(model, [1, 2], n=1, max_tokens=5, decoding=ContrastiveSearch(k=k, alpha=0.5), **SETTINGS)
        assert len(one.tokens) == 5 or one.ended == "end_of_text"


def test_beyond_the_context_it_compares_with_what_the_model_sees():
    decoding = ContrastiveSearch(k=3, alpha=0.5)
    (one,) = generate(gpt(), [1, 2, 3], n=1, max_tokens=4 * CONTEXT, decoding=decoding, **SETTINGS)
    assert len(one.tokens) == 4 * CONTEXT or one.ended == "end_of_text"


def test_a_model_that_tells_no_outputs_is_refused():
    model = MLP(V, context_length=3, n_embd=8, n_hidden=16)
    with pytest.raises(ConfigError, match="outputs"):
        generate(model, [1], n=1, max_tokens=2, decoding=ContrastiveSearch(k=3, alpha=0.5), **SETTINGS)
