"""Recurrent models: their equations, the state that they carry, and where backpropagation is cut off."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain import cli
from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.models.language_model import documents_in
from pretrain.models.rnn import RNN
from pretrain.stopping import Stop
from pretrain.training.optimizers import AdamW
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

V, B, T, E, H = 19, 3, 10, 8, 12
Cell = Literal["rnn", "gru", "lstm"]
MakeStream = Callable[..., TokenStream]


@pytest.fixture(params=["rnn", "gru", "lstm"])
def cell(request: pytest.FixtureRequest) -> Cell:
    found: Cell = request.param
    return found


def recurrent(cell: Cell, n_layer: int = 2, dropout: float = 0.0, *, tied: bool = True) -> RNN:
    torch.manual_seed(0)
    return RNN(V, cell=cell, n_layer=n_layer, n_embd=E, n_hidden=H, dropout=dropout, tied=tied).eval()


def rows(length: int = T) -> Tensor:
    return torch.randint(0, V, (B, length), generator=torch.Generator().manual_seed(1))


def by_hand(model: RNN, cell: Cell, tokens: Tensor) -> Tensor:
    """Logits (T, V) of one row, written out from the papers' equations, for one layer and weights that are not tied."""
    weights = {name.removesuffix("_l0"): weight for name, weight in model.recurrence.named_parameters()}
    hidden = memory = torch.zeros(H)
    logits = []
    for token in tokens.tolist():
        read = weights["weight_ih"] @ model.embedding.weight[token] + weights["bias_ih"]
        kept = weights["weight_hh"] @ hidden + weights["bias_hh"]
        if cell == "rnn":
            hidden = torch.tanh(read + kept)
        elif cell == "gru":
            reset, update = torch.sigmoid(read + kept)[: 2 * H].split(H)
            new = torch.tanh(read[2 * H :] + reset * kept[2 * H :])
            hidden = update * hidden + (1 - update) * new
        else:
            enters, forgets, new, leaves = (read + kept).split(H)
            memory = torch.sigmoid(forgets) * memory + torch.sigmoid(enters) * torch.tanh(new)
            hidden = torch.sigmoid(leaves) * torch.tanh(memory)
        assert model.output is not None
        logits.append(model.output.weight @ hidden)
    return torch.stack(logits)


def test_logits_are_those_of_the_equations(cell: Cell) -> None:
    model = recurrent(cell, n_layer=1, tied=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    assert torch.allclose(model(rows())[1], by_hand(model, cell, rows()[1]), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_shared_weights_are_counted_and_saved_once(cell: Cell, tied: bool) -> None:
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    layers = gates * H * (E + H + 2) + gates * H * (H + H + 2)
    model = recurrent(cell, tied=tied)
    assert model.parameter_count() == V * E + layers + (H * E if tied else H * V)
    assert sum(weight.numel() for weight in model.state_dict().values()) == model.parameter_count()


def test_two_rows_with_the_state_carried_over_are_one_long_row(cell: Cell) -> None:
    model, tokens, targets = recurrent(cell), rows(), rows().flip(1)
    whole, last = model.token_losses(tokens, targets)
    first, state = model.token_losses(tokens[:, :4], targets[:, :4])
    second, end = model.token_losses(tokens[:, 4:], targets[:, 4:], state)
    assert torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-5)
    assert end.keys() == last.keys()
    for name, tensor in end.items():
        assert tensor.shape == (B, 2, H)
        assert torch.allclose(tensor, last[name], atol=1e-5)
    fresh, _ = model.token_losses(tokens[:, 4:], targets[:, 4:])
    assert (fresh - second).abs().max() > 1e-3


def test_no_gradient_flows_into_the_state_that_is_carried_in(cell: Cell) -> None:
    model, tokens = recurrent(cell), rows()
    _, state = model.token_losses(tokens[:, :4], tokens[:, 1:5])
    assert all(tensor.requires_grad for tensor in state.values())
    parameters = list(model.parameters())
    second, _ = model.token_losses(tokens[:, 4:-1], tokens[:, 5:], state)
    gradients = torch.autograd.grad(second.sum(), parameters)
    cut = {name: tensor.detach() for name, tensor in state.items()}
    alone, _ = model.token_losses(tokens[:, 4:-1], tokens[:, 5:], cut)
    for found, expected in zip(gradients, torch.autograd.grad(alone.sum(), parameters), strict=True):
        assert torch.equal(found, expected)


def test_rows_of_different_lengths_carry_the_state_of_their_last_real_token(cell: Cell) -> None:
    model, tokens, lengths = recurrent(cell), rows(), torch.tensor([2, 7, 4])
    logits, state = model.next_logits(tokens[:, :7], lengths)
    more = torch.tensor([3, 1, 2])
    again, _ = model.next_logits(tokens[:, 7:], more, state)
    turned, _ = model.next_logits(tokens[[2, 0], 7:8], torch.ones(2).long(), {k: v[[2, 0]] for k, v in state.items()})
    for row, (length, added) in enumerate(zip(lengths.tolist(), more.tolist(), strict=True)):
        alone = torch.cat([tokens[row, :length], tokens[row, 7 : 7 + added]])[None]
        expected = model(alone)[0]
        assert torch.allclose(logits[row], expected[length - 1], atol=1e-5)
        assert torch.allclose(again[row], expected[-1], atol=1e-5)
        if row in (2, 0):
            assert torch.allclose(turned[(2, 0).index(row)], expected[length], atol=1e-5)


def test_a_row_may_hold_one_token_or_none(cell: Cell) -> None:
    model = recurrent(cell)
    _, state = model.token_losses(rows(), rows())
    one, _ = model.token_losses(rows(1), rows(1), state)
    assert one.shape == (B, 1)
    none, same = model.token_losses(rows(0), rows(0), state)
    assert none.shape == (B, 0)
    assert model(rows(0)).shape == (B, 0, V)
    assert all(torch.equal(same[name], tensor) for name, tensor in state.items())


def test_a_document_is_read_from_a_state_of_zeros(cell: Cell) -> None:
    model, tokens = recurrent(cell), rows()
    tokens[:] = tokens.clamp(min=1)
    tokens[:, 6] = 0
    found = model.document_losses(tokens, tokens, documents_in(tokens, 0))
    for part in (slice(0, 6), slice(6, T)):
        expected, _ = model.token_losses(tokens[:, part], tokens[:, part])
        assert torch.allclose(found[:, part], expected, atol=1e-5)


@pytest.mark.parametrize("n_layer", [1, 2])
def test_dropout_drops_before_between_and_behind_the_layers_in_training_only(n_layer: int, cell: Cell) -> None:
    model = recurrent(cell, n_layer, dropout=0.5)
    assert torch.equal(model(rows()), model(rows()))
    read: list[Tensor] = []
    model.recurrence.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    assert model.projection is not None
    model.projection.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model.train()(rows())
    for activations in read:
        assert 0.3 < float((activations == 0).float().mean()) < 0.7
    assert model.recurrence.dropout == (0.5 if n_layer > 1 else 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_what_the_layers_read_begins_at_about_one(tied: bool) -> None:
    torch.manual_seed(0)
    model = RNN(500, cell="lstm", n_layer=1, n_embd=64, n_hidden=32, dropout=0.0, tied=tied)
    read: list[Tensor] = []
    model.recurrence.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model(torch.arange(500)[None])
    assert float(read[0].detach().std()) == pytest.approx(1.0, rel=0.05)


def update_of(model: RNN, batches: Batches) -> GradientUpdate:
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    optimizer = AdamW(parameters, lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    return GradientUpdate(
        model.train(), batches, optimizer, Constant(warmup_steps=0), torch.float32, 2, 1, Stop(), max_grad_norm=1.0
    )


def test_a_run_resumed_within_an_epoch_ends_with_the_same_bits(
    cell: Cell, make_stream: MakeStream, tmp_path: Path
) -> None:
    stream = make_stream(np.random.default_rng(0).integers(0, V, 4 * 5 * 6 + 1).tolist())
    batches = Batches(stream, 5, 4, seed=1, packing="contiguous")
    undisturbed, first = (update_of(recurrent(cell, dropout=0.1), batches) for _ in range(2))
    for number in range(6):
        undisturbed.step(number, number, 0.0)
    for number in range(3):
        first.step(number, number, 0.0)
    # A file gives its tensors back in another order.
    save_file({name: tensor.contiguous() for name, tensor in first.state().items()}, tmp_path / "update.safetensors")
    second = update_of(recurrent(cell, dropout=0.1), batches)
    second.model.load_weights(first.model.state_dict())
    second.load_state(dict(sorted(load_file(tmp_path / "update.safetensors").items())))
    for number in range(3, 6):
        second.step(number, number, 0.0)
    for one, other in zip(undisturbed.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "carried.hidden" in first.state()


def test_the_presets_carry_their_state_from_batch_to_batch(cell: Cell) -> None:
    settings = cli._composed("train", [f"model={cell}"])
    assert settings["trainer"]["packing"] == "contiguous"
    assert settings["model"]["cell"] == cell
