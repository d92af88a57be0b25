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
def by_hand(model, prompt, k, alpha, most, context=10**9):
    """Token by token; what does not fit the context is read from the last half of it, each candidate included."""
    so_far, written = list(prompt), []
    for _ in range(most):
        values, candidates = model(torch.tensor([so_far]))[0, -1].softmax(0).topk(k)
        if len(so_far) + 1 > context:
            so_far = so_far[1 - context // 2 :]
        scores = []
        for value, candidate in zip(values.tolist(), candidates.tolist(), strict=True):
            outputs = outputs_of(model, [*so_far, candidate])
            scores.append((1 - alpha) * value - alpha * float((outputs[:-1] @ outputs[-1]).max()))
        written.append(int(candidates[scores.index(max(scores))]))
        so_far.append(written[-1])
    return written[: written.index(EOT)] if EOT in written else written


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
def test_each_token_is_the_best_by_the_definition(model, alpha):
    decoding = ContrastiveSearch(k=4, alpha=alpha)
    found = generate_all(model, PROMPTS, n=1, max_tokens=9, decoding=decoding, rows=3, **SETTINGS)
    for prompt, one in zip(PROMPTS, found, strict=True):
        assert one.tokens == by_hand(model, prompt, 4, alpha, 9)


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
    decoding, model = ContrastiveSearch(k=3, alpha=0.8), gpt()
    prompts = [[1, 2, 3], [9, 8], [5, 5, 7, 4]]
    found = generate_all(model, prompts, n=1, max_tokens=30, decoding=decoding, rows=1, **SETTINGS)
    for prompt, one in zip(prompts, found, strict=True):
        assert one.tokens == by_hand(model, prompt, 3, 0.8, 30, CONTEXT)
    assert any(len(one.tokens) == 30 for one in found)


def test_a_model_that_tells_no_outputs_is_refused():
    model = MLP(V, context_length=3, n_embd=8, n_hidden=16)
    with pytest.raises(ConfigError, match="outputs"):
        generate(model, [1], n=1, max_tokens=2, decoding=ContrastiveSearch(k=3, alpha=0.5), **SETTINGS)
