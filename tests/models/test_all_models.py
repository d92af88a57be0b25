"""What holds for every model. One test runs over all of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain import cli, config
from pretrain.errors import ConfigError
from pretrain.models.attending import Attend
from pretrain.models.gpt import GPT
from pretrain.models.language_model import IGNORED, LanguageModel, linear_cross_entropy
from pretrain.sampling.beam_search import BeamSearch
from pretrain.sampling.decodings import Greedy, TopP
from pretrain.sampling.generation import generate_all

V, B, T = 23, 3, 12
SMALL = ["model.n_embd=16", "model.n_layer=2", "model.n_head=2", "model.context_length=16"]
RECURRENT = ["model.n_embd=16", "model.n_hidden=24", "model.n_layer=2"]
TINY = {
    "mlp": ["model.n_embd=8", "model.n_hidden=16"],
    "mlp of three": ["model.n_embd=8", "model.n_hidden=16", "model.context_length=3"],
    "mlp with tanh": ["model.n_embd=8", "model.n_hidden=16", "model.activation=tanh"],
    "rnn": RECURRENT,
    "gru": RECURRENT,
    "lstm": RECURRENT,
    "lstm of one layer, untied": [*RECURRENT, "model.n_layer=1", "model.tied=false"],
    "attention": ["model.n_embd=16", "model.n_head=2", "model.context_length=16"],
    "encoder_decoder": SMALL,
    "encoder_decoder, normalised before each layer": [*SMALL, "model.norm=pre"],
    "gpt_nano": SMALL,
    "gpt with sinusoidal positions": [*SMALL, "model.positions=sinusoidal"],
    "gpt with rotary positions": [*SMALL, "model.positions=rotary"],
    "gpt with alibi": [*SMALL, "model.positions=alibi"],
    "gpt without positions": [*SMALL, "model.positions=none"],
    "gpt of experts": [*SMALL, "model.n_expert=3"],
    "llama": [*SMALL, "model.n_kv_head=1", "model.n_hidden=24"],
    "llama of experts, untied": [*SMALL, "model.n_kv_head=2", "model.n_expert=3", "model.tied=false"],
    "modern": [*SMALL, "model.value_embeddings=1"],
    "modern with all else": [
        *SMALL,
        "model.tied=false",
        "model.lookback=2",
        "model.lookback_by=channel",
        "model.value_embeddings=2",
        "model.embedding_mix=true",
        "model.soft_cap=15",
        "model.window=3",
    ],
    "ngram": ["model.order=3"],
    "ngram of one": ["model.order=1"],
    "ngram with add_k": ["model.order=2", "model.smoothing=add_k"],
    "ngram_mixture": ["model.order=3", "model.cache_order=2"],
}
GRADIENT = [name for name in TINY if "ngram" not in name]


def build(name: str, vocab_size: int = V) -> LanguageModel:
    torch.manual_seed(0)
    settings = cli._composed("train", [f"model={name.split()[0].rstrip(',')}", *TINY[name]])
    model: LanguageModel = config.build(config.Part(settings["model"]), vocab_size=vocab_size)
    if "ngram" in name:
        stream = np.random.default_rng(0).integers(1, vocab_size, 400)
        stream[::20] = 0
        model.fit(stream, 0)  # type: ignore[operator]  # only n-grams have it
    return model.eval()


def tokens(seed: int = 1) -> torch.Tensor:
    return torch.randint(1, V, (B, T), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=TINY)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    model = build(request.param)
    with torch.no_grad():
        for parameter in model.parameters():  # so that what starts at zero takes part
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def test_a_future_token_never_changes_a_past_logit(model: LanguageModel) -> None:
    before, other = tokens(), tokens()
    other[:, 7] = (other[:, 7] + 1) % V
    changed = (model(before) - model(other)).abs().amax(dim=(0, 2))
    assert changed[:7].max() == 0
    if model.context_length != 0:
        assert changed[7] > 0


def test_probabilities_sum_to_one(model: LanguageModel) -> None:
    total = model(tokens()).double().softmax(dim=2).sum(dim=2)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-9)


def test_token_losses_are_the_cross_entropy_of_forward(model: LanguageModel) -> None:
    rows = tokens()
    targets = torch.cat([rows[:, 1:], torch.full((B, 1), IGNORED)], dim=1)
    nats, _ = model.token_losses(rows, targets)
    expected = F.cross_entropy(model(rows).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    assert torch.allclose(nats.flatten().double(), expected.double(), atol=1e-5)
    assert (nats[:, -1] == 0).all()


def test_scores_are_the_losses_and_the_ranks_of_the_logits(model: LanguageModel) -> None:
    rows = tokens()
    targets = torch.cat([rows[:, 1:], torch.full((B, 1), IGNORED)], dim=1)
    targets[1, 3] = IGNORED
    scores, (nats, _) = model.token_scores(rows, targets), model.token_losses(rows, targets)
    assert torch.allclose(scores.nats, nats, atol=1e-5)
    logits, scored = model(rows), targets != IGNORED
    own = logits.gather(2, targets.clamp(min=0)[:, :, None])
    near = (logits - own).abs() < 1e-5  # ways to the same logit round differently
    sure = ((logits > own) & ~near).sum(2)
    assert (scores.higher >= sure)[scored].all()
    assert (scores.higher + scores.equal <= sure + near.sum(2))[scored].all()
    assert (scores.equal >= 1)[scored].all()
    for part in scores[:3]:
        assert (part[~scored] == 0).all()


def test_scores_of_documents_apart_are_those_of_rows_of_their_own(model: LanguageModel) -> None:
    rows = tokens()
    rows[:, 5] = 0
    targets, documents = torch.roll(rows, -1, 1), (rows == 0).cumsum(1)
    apart = model.document_scores(rows, targets, documents)
    for part in (slice(0, 5), slice(5, T)):
        alone = model.token_scores(rows[:, part], targets[:, part])
        assert torch.allclose(apart.nats[:, part], alone.nats, atol=1e-5)
        assert (apart.higher[:, part] - alone.higher).abs().max() <= 1


def test_step_by_step_equals_the_whole_row_at_once(model: LanguageModel) -> None:
    rows = tokens()
    whole = model(rows)
    logits, state = model.next_logits(rows[:, :4], torch.full((B,), 4))
    assert torch.allclose(logits, whole[:, 3], atol=1e-5)
    for place in range(4, T):
        logits, state = model.next_logits(rows[:, place : place + 1], torch.ones(B, dtype=torch.long), state)
        assert torch.allclose(logits, whole[:, place], atol=1e-5)


@torch.inference_mode()
def test_every_kind_of_decoding_writes_what_the_whole_row_says(model: LanguageModel) -> None:
    settings: dict[str, Any] = {"max_tokens": 6, "seed": 1, "end_of_text": 0, "device": torch.device("cpu")}
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    for decoding in (Greedy(), TopP(p=0.9, temperature=1.0), BeamSearch(width=3, length_penalty=1.0)):
        written = generate_all(model, prompts, n=2, decoding=decoding, rows=3, **settings)
        for place, continuation in enumerate(written):
            ids = continuation.tokens + ([0] if continuation.ended == "end_of_text" else [])
            row = torch.tensor([[*prompts[place // 2], *ids]])
            logs = model(row)[0].double().log_softmax(1)[-len(ids) - 1 : -1]
            assert logs.gather(1, row[0, -len(ids) :, None])[:, 0].tolist() == pytest.approx(
                continuation.logprobs, abs=1e-4
            )


def test_weights_survive_saving_and_loading(model: LanguageModel, request: pytest.FixtureRequest) -> None:
    copy = build(request.node.callspec.params["model"])
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    copy.load_weights(model.state_dict())
    assert torch.equal(model(tokens()), copy(tokens()))


def test_rows_of_no_token_and_of_one_are_rows_too(model: LanguageModel) -> None:
    rows = tokens()
    assert model(rows[:, :0]).shape == (B, 0, V)
    assert model.token_losses(rows[:, :0], rows[:, :0])[0].shape == (B, 0)
    assert torch.allclose(model(rows[:, :1])[:, 0], model(rows)[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", GRADIENT)
def test_an_untrained_model_loses_the_logarithm_of_the_vocabulary(name: str) -> None:
    rows = torch.randint(0, 500, (8, 17))
    nats, _ = build(name, 500).token_losses(rows[:, :16], rows[:, 1:])
    assert float(nats.detach().mean()) == pytest.approx(math.log(500), rel=0.02)


@pytest.mark.parametrize("name", GRADIENT)
def test_a_model_overfits_one_tiny_batch(name: str) -> None:
    model = build(name).train()
    row = torch.randperm(V)[None, :T]  # no token twice, so that one token of context is enough
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        model.token_losses(row[:, :-1], row[:, 1:])[0].mean().backward()
        optimizer.step()
    assert float(model.token_losses(row[:, :-1], row[:, 1:])[0].detach().mean()) < 0.05


def test_a_row_longer_than_the_context_is_refused() -> None:
    model = GPT(V, context_length=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0)
    with pytest.raises(ConfigError, match=r"try trainer\.sequence_length=4"):
        model(tokens())


@pytest.mark.parametrize("length", [1, 5])
def test_both_paths_of_attention_agree(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (length, 9, 9))
    attend = Attend()
    explicit = attend(query, key, value)
    monkeypatch.setattr("pretrain.models.attending.EXPLICIT_UP_TO", 0)
    fused = attend(query, key, value)
    assert torch.allclose(explicit, fused, atol=1e-12)
    assert not torch.equal(explicit, fused)  # else both took one path


@pytest.mark.parametrize("name", GRADIENT)
def test_z_loss_is_in_the_gradient_and_not_in_the_losses(name: str) -> None:
    model, rows, z_loss = build(name), tokens(), 0.1
    targets = torch.roll(rows, -1, 1)
    targets[1, 3] = IGNORED
    weights = list(model.parameters())
    logits = model(rows).flatten(0, 1)
    nats = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    penalty = (torch.logsumexp(logits, 1).square() * (targets.flatten() != IGNORED)).sum()
    expected = torch.autograd.grad(nats + z_loss * penalty, weights, allow_unused=True)
    model.z_loss = z_loss
    for losses in (model.token_losses(rows, targets)[0], model.document_losses(rows, targets, torch.zeros_like(rows))):
        assert losses.detach().sum().item() == pytest.approx(nats.item(), rel=1e-6)
        for found, wanted in zip(torch.autograd.grad(losses.sum(), weights, allow_unused=True), expected, strict=True):
            if wanted is None:
                assert found is None or not found.any()
            else:
                assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("scale", [lambda nats: nats.sum(), lambda nats: (nats * torch.arange(10).view(2, 5)).sum()])
@pytest.mark.parametrize("kept", [0, 2**20])
def test_the_fused_head_has_the_gradients_of_the_plain_one(
    kept: int,
    scale: Callable[[torch.Tensor], torch.Tensor],
    soft_cap: float | None,
    z_loss: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pretrain.models.language_model.ROWS_AT_LEAST", 1)
    monkeypatch.setitem(__import__("pretrain.models.language_model", fromlist=["x"]).LOGITS_AT_ONCE, "cpu", 3 * V)
    monkeypatch.setattr("pretrain.models.language_model.LOGITS_KEPT", kept)
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, 4, requires_grad=True)
    weight = torch.randn(V, 4, requires_grad=True)
    targets = torch.tensor([[1, 2, IGNORED, 4, 0], [22, IGNORED, 3, 3, 9]])
    nats = linear_cross_entropy(hidden, weight, targets, soft_cap, z_loss)
    fused = torch.autograd.grad(scale(nats), (hidden, weight))
    logits = hidden @ weight.T
    logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    assert torch.allclose(nats.flatten(), plain, atol=1e-5)
    plain = plain + z_loss * logits.flatten(0, 1).logsumexp(1).square() * (targets.flatten() != IGNORED)
    expected = torch.autograd.grad(scale(plain.view(2, 5)), (hidden, weight))
    for found, wanted in zip(fused, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_rows_of_different_lengths_go_on_each_at_its_own_end(model: LanguageModel) -> None:
    """Five calls, which outgrow a context of 16 for the longest row: each row as if it were alone."""
    rows = torch.randint(1, V, (B, 25), generator=torch.Generator().manual_seed(3))
    lengths = [[2, 5, 3], [1, 1, 1], [4, 9, 1], [1, 1, 1], [2, 1, 2]]
    state, ends = None, [0] * B
    alone: list[dict[str, torch.Tensor] | None] = [None] * B
    for count in lengths:
        starts, ends = ends, [end + more for end, more in zip(ends, count, strict=True)]
        new = torch.zeros(B, max(count), dtype=torch.long)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            new[row, : end - start] = rows[row, start:end]
        logits, state = model.next_logits(new, torch.tensor(count), state)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            part = rows[row : row + 1, start:end]
            expected, alone[row] = model.next_logits(part, torch.tensor([end - start]), alone[row])
            assert torch.allclose(logits[row], expected[0], atol=1e-5)


def test_rows_of_a_state_can_be_selected_and_repeated(model: LanguageModel) -> None:
    rows = tokens()
    _, state = model.next_logits(rows[:, :5], torch.full((B,), 5))
    chosen = torch.tensor([2, 0, 2, 1])
    branched = {name: tensor[chosen] for name, tensor in state.items()}
    logits, _ = model.next_logits(rows[chosen, 5:6], torch.ones(4, dtype=torch.long), branched)
    assert torch.allclose(logits, model(rows[chosen, :6])[:, -1], atol=1e-5)
