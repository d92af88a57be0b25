"""The encoder-decoder: who sees what, and that it is the Transformer of torch."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from pretrain.errors import ConfigError
from pretrain.models.encoder_decoder import Attention, EncoderDecoder
from pretrain.models.language_model import IGNORED
from pretrain.models.positions import sinusoids

V, SEP, WIDTH, HEADS = 23, 23, 16, 4
NORMS: list[Literal["post", "pre"]] = ["post", "pre"]


def build(norm: Literal["post", "pre"] = "post", context_length: int = 16) -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(
        V, 3, context_length=context_length, n_layer=2, n_head=HEADS, n_embd=WIDTH, dropout=0.0, norm=norm
    )
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains take part too
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


@pytest.fixture(params=NORMS)
def model(request: pytest.FixtureRequest) -> EncoderDecoder:
    return build(request.param)


def row(source: int, target: int, seed: int = 1) -> Tensor:
    """(1, source + 1 + target)."""
    tokens = torch.randint(0, V, (1, source + 1 + target), generator=torch.Generator().manual_seed(seed))
    tokens[0, source] = SEP
    return tokens


def test_a_target_sees_the_whole_source_and_no_target_behind_it(model: EncoderDecoder) -> None:
    tokens = row(5, 6)
    whole = model(tokens)
    for place in range(11):
        if place == 5:
            continue
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % V
        changed = (model(other) - whole).abs().amax(dim=2)[0] > 0
        first = max(5, place)  # a token of the source changes every target
        assert changed.tolist() == [here >= first for here in range(12)]


def test_in_a_source_there_is_nothing_to_predict(model: EncoderDecoder) -> None:
    tokens = row(5, 6)
    assert (model(tokens)[:, :5] == 0).all()
    nats, _ = model.token_losses(tokens, torch.tensor([[1, IGNORED, 2, 3, 4, *[IGNORED] * 7]]))
    alike = math.log(V)
    assert nats[0].tolist() == pytest.approx([alike, 0, alike, alike, alike, *[0] * 7])


def test_a_row_does_not_depend_on_those_beside_it(model: EncoderDecoder) -> None:
    shapes = [(5, 6), (9, 2), (0, 11), (3, 8)]
    rows = torch.cat([row(*shape, seed) for seed, shape in enumerate(shapes)])
    together = model(rows)
    targets = torch.randint(0, V, rows.shape)
    nats, _ = model.token_losses(rows, targets)
    for index, (source, _) in enumerate(shapes):
        alone = rows[index : index + 1]
        assert torch.allclose(together[index], model(alone)[0], atol=1e-5)
        expected, _ = model.token_losses(alone, targets[index : index + 1])
        assert torch.allclose(nats[index], expected[0], atol=1e-5)
        scored = -model(alone)[0].log_softmax(1).gather(1, targets[index][:, None])[:, 0]
        assert torch.allclose(nats[index, source:], scored[source:], atol=1e-5)


def test_what_is_behind_a_target_changes_nothing(model: EncoderDecoder) -> None:
    tokens = row(5, 6)
    padded = torch.cat([tokens, torch.tensor([[3, 3]])], dim=1)
    assert torch.allclose(model(padded)[:, :12], model(tokens), atol=1e-6)


def test_a_row_without_separator_is_a_target_with_an_empty_source(model: EncoderDecoder) -> None:
    tokens = torch.randint(0, V, (2, 7))
    logits, _ = model.next_logits(tokens, torch.tensor([7, 4]))
    assert torch.allclose(logits[0], model(tokens)[0, -1], atol=1e-5)
    assert torch.allclose(logits[1], model(tokens)[1, 3], atol=1e-5)
    assert (model(tokens) != 0).any(2).all()


def test_step_by_step_equals_all_at_once_on_target_positions(model: EncoderDecoder) -> None:
    """Rows with sources and targets of different lengths, whose first call ends at different places."""
    shapes, firsts = [(5, 6), (2, 9), (8, 3)], [6, 5, 10]
    rows = [row(*shape, seed) for seed, shape in enumerate(shapes)]
    wholes = [model(tokens)[0] for tokens in rows]
    start = torch.full((3, max(firsts)), SEP)  # what pads a row may be anything
    for index, first in enumerate(firsts):
        start[index, :first] = rows[index][0, :first]
    places = torch.tensor(firsts)
    logits, state = model.next_logits(start, places)
    for _ in range(3):
        for index, whole in enumerate(wholes):
            if places[index] <= len(whole):
                assert torch.allclose(logits[index], whole[places[index] - 1], atol=1e-5)
        news = torch.stack([tokens[0, min(int(place), 11)] for tokens, place in zip(rows, places, strict=True)])
        logits, state = model.next_logits(news[:, None], torch.ones(3, dtype=torch.long), state)
        places += 1


def test_a_target_that_outgrows_the_context_keeps_its_source(model: EncoderDecoder) -> None:
    tokens = row(5, 6)
    state = None
    new = tokens
    for _ in range(20):
        logits, state = model.next_logits(new, torch.tensor([new.shape[1]]), state)
        new = logits.argmax(1, keepdim=True)
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % V
    _, changed = model.next_logits(other, torch.tensor([12]))
    swapped = state | {name: changed[name] for name in ("source_keys", "source_values")}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    one = torch.tensor([1])
    assert not torch.equal(model.next_logits(new, one, kept)[0], model.next_logits(new, one, swapped)[0])


def test_rows_may_be_empty_or_one_token_and_too_long_ones_are_refused(model: EncoderDecoder) -> None:
    assert model(torch.zeros(3, 0, dtype=torch.long)).shape == (3, 0, V)
    assert model(torch.tensor([[SEP]])).shape == (1, 1, V)
    with pytest.raises(ConfigError, match=r"source of 17 tokens .* try trainer\.sequence_length=16"):
        model(row(17, 3))
    with pytest.raises(ConfigError, match="target of 17 tokens"):
        model(row(3, 16))
    with pytest.raises(ConfigError, match="or a shorter prompt"):
        model.next_logits(row(17, 0), torch.tensor([18]))


def test_no_id_behind_the_vocabulary_is_predicted() -> None:
    model = build()
    assert model.token_embedding.weight.shape == (V + 3, WIDTH)
    assert model(row(5, 6)).shape == (1, 12, V)
    assert EncoderDecoder(
        V, 0, context_length=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, norm="post"
    ).token_embedding.weight.shape == (V + 1, 4)


def _attention(theirs: nn.MultiheadAttention, ours: Attention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def torchs(model: EncoderDecoder, norm: str) -> Callable[[Tensor, Tensor], Tensor]:
    """torch's own layers with the weights of `model`: from a source with SEP and a target from SEP on to logits."""
    settings = {"dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True, "norm_first": norm == "pre"}
    encoder = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS, **settings) for _ in model.encoder)
    decoder = nn.ModuleList(nn.TransformerDecoderLayer(WIDTH, HEADS, **settings) for _ in model.blocks)
    with torch.no_grad():
        for theirs, ours in [*zip(encoder, model.encoder, strict=True), *zip(decoder, model.blocks, strict=True)]:
            norms = [ours.attention_norm, ours.feed_forward_norm]
            _attention(theirs.self_attn, ours.attention)
            if hasattr(ours, "cross_attention"):
                _attention(theirs.multihead_attn, ours.cross_attention)
                norms.insert(1, ours.cross_attention_norm)
            for number, layer in enumerate(norms, start=1):
                theirs.get_submodule(f"norm{number}").load_state_dict(layer.state_dict())
            theirs.linear1.load_state_dict(ours.feed_forward.input.state_dict())
            theirs.linear2.load_state_dict(ours.feed_forward.output.state_dict())
    weight = model.token_embedding.weight

    def embedded(tokens: Tensor) -> Tensor:
        return weight[tokens] * WIDTH**0.5 + sinusoids(torch.arange(tokens.shape[1]), WIDTH)

    def logits(source: Tensor, target: Tensor) -> Tensor:
        read, x = embedded(source), embedded(target)
        for layer in encoder:
            read = layer(read)
        read = model.encoder_norm(read)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        for layer in decoder:
            x = layer(x, read, tgt_mask=future)
        return model.norm(x) @ weight[:V].T

    return logits


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_transformer_of_torch(norm: Literal["post", "pre"]) -> None:
    model = build(norm).train()
    tokens = torch.cat([row(5, 6, seed) for seed in range(3)])
    theirs = torchs(model, norm)
    expected, ours = theirs(tokens[:, :6], tokens[:, 5:]), model(tokens)[:, 5:]
    assert torch.allclose(ours, expected, atol=1e-5)
    scale = torch.randn_like(ours)
    weight = model.token_embedding.weight
    [found] = torch.autograd.grad((ours * scale).sum(), weight)
    [wanted] = torch.autograd.grad((expected * scale).sum(), weight)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_it_learns_to_turn_a_source_round() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(V, context_length=8, n_layer=1, n_head=2, n_embd=32, dropout=0.0, norm="post")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    sources = torch.stack([torch.randperm(V)[:3] for _ in range(16)])
    rows = torch.cat([sources, torch.full((16, 1), SEP), sources.flip(1)], dim=1)
    targets = rows[:, 1:].clone()
    targets[:, :3] = IGNORED
    for _ in range(150):
        optimizer.zero_grad()
        (model.token_losses(rows[:, :-1], targets)[0].sum() / 48).backward()
        optimizer.step()
    assert (model(rows[:, :-1])[:, 3:].argmax(2) == sources.flip(1)).all()
