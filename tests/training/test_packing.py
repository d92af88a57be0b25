"""How an update packs: documents apart, and a state that is carried from batch to batch and over a restart."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.evaluation.loss import Validation, stream_loss
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel, State, documents_in
from pretrain.stopping import Stop
from pretrain.training.optimizers import AdamW
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

V = 11
MakeStream = Callable[..., TokenStream]


class Recurrent(LanguageModel):
    """An Elman network that notes the states that it is given."""

    context_length = None

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size = V
        self.embedding = nn.Embedding(V, 4)
        self.recurrence = nn.RNN(4, 4, batch_first=True)
        self.output = nn.Linear(4, V)
        self.given: list[State | None] = []

    def token_losses(self, tokens: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.given.append(state)
        before = None if state is None else state["hidden"].transpose(0, 1).contiguous()
        hidden, last = self.recurrence(self.embedding(tokens), before)
        nats = nn.functional.cross_entropy(self.output(hidden).flatten(0, 1), targets.flatten(), reduction="none")
        return nats.view_as(targets), {"hidden": last.transpose(0, 1)}


def update_of(model: LanguageModel, batches: Batches, micro_batch: int = 2) -> GradientUpdate:
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    settings = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}
    optimizer = AdamW(parameters, **settings)
    return GradientUpdate(
        model, batches, optimizer, Constant(warmup_steps=0), torch.float32, micro_batch, 1, Stop(), max_grad_norm=1.0
    )


def recurrent() -> Recurrent:
    torch.manual_seed(0)
    return Recurrent()


@pytest.fixture
def stream(make_stream: MakeStream) -> TokenStream:
    return make_stream(np.random.default_rng(0).integers(0, V, 4 * 5 * 3 + 1).tolist())


def test_a_state_is_carried_from_batch_to_batch_and_begins_anew_with_the_epoch(stream: TokenStream) -> None:
    model = recurrent()
    update = update_of(model, Batches(stream, 5, 4, seed=1, packing="contiguous"))
    for number in range(4):
        update.step(number, number, 0.0)
    assert [state is None for state in model.given] == [True, True, False, False, False, False, True, True]
    assert not any(state["hidden"].requires_grad for state in model.given if state)


def test_a_step_on_a_carried_state_loses_what_the_whole_lane_loses(stream: TokenStream) -> None:
    batches = Batches(stream, 5, 4, seed=1, packing="contiguous")
    model = recurrent()
    update = update_of(model, batches)
    update.optimizer.lr = 0.0
    found = [update.step(number, number, 0.0).loss for number in range(3)]
    lanes = torch.from_numpy(np.concatenate([batches[0], batches[1][:, 1:], batches[2][:, 1:]], axis=1))
    nats, _ = model.token_losses(lanes[:, :-1], lanes[:, 1:])
    assert found == pytest.approx([float(nats[:, i : i + 5].detach().mean()) for i in (0, 5, 10)], abs=1e-6)


def test_a_resumed_run_carries_on_the_saved_state(stream: TokenStream) -> None:
    batches = Batches(stream, 5, 4, seed=1, packing="contiguous")
    undisturbed = update_of(recurrent(), batches)
    for number in range(5):
        undisturbed.step(number, number, 0.0)
    first = update_of(recurrent(), batches)
    for number in range(2):
        first.step(number, number, 0.0)
    second = update_of(recurrent(), batches)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for number in range(2, 5):
        second.step(number, number, 0.0)
    for one, other in zip(undisturbed.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert undisturbed.state().keys() == second.state().keys()
    assert first.state()["carried.hidden"].shape == (4, 1, 4)


def test_a_skipped_step_leaves_the_carried_state_alone(stream: TokenStream) -> None:
    model = recurrent()
    update = update_of(model, Batches(stream, 5, 4, seed=1, packing="contiguous"))
    update.step(0, 0, 0.0)
    before = update.state()["carried.hidden"].clone()
    with torch.no_grad():
        kept = model.output.weight.clone()
        model.output.weight.fill_(torch.nan)
    assert update.step(1, 1, 0.0).skipped
    with torch.no_grad():
        model.output.weight.copy_(kept)
    assert torch.equal(update.state()["carried.hidden"], before)


def test_other_packings_carry_and_save_nothing(stream: TokenStream) -> None:
    model = recurrent()
    update = update_of(model, Batches(stream, 5, 4, seed=1))
    for number in range(3):
        update.step(number, number, 0.0)
    assert model.given == [None] * 6
    assert not [name for name in update.state() if name.startswith("carried.")]


def gpt() -> GPT:
    torch.manual_seed(0)
    model = GPT(V, context_length=5, n_layer=1, n_head=2, n_embd=8, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def test_packing_documents_trains_and_evaluates_without_a_look_across_their_borders(stream: TokenStream) -> None:
    model = gpt()
    batches = Batches(stream, 5, 4, seed=1, packing="documents")
    rows = torch.from_numpy(batches[0])
    tokens, targets = rows[:, :-1], rows[:, 1:]
    expected = float(model.document_losses(tokens, targets, documents_in(tokens, 0)).detach().mean())
    crossing = float(model.token_losses(tokens, targets)[0].detach().mean())
    assert update_of(model, batches).step(0, 0, 0.0).loss == pytest.approx(expected, abs=1e-5)
    assert abs(expected - crossing) > 1e-3

    model = gpt()
    whole = Validation(stream, row=5, stride=5, some=10, stop=Stop(), apart=True).loss(model, whole=True)
    assert whole.tokens == 60
    apart = stream_loss(model, stream, row=5, stride=5, stop=Stop(), apart=True)
    assert whole == apart
    assert apart.nats != pytest.approx(stream_loss(model, stream, row=5, stride=5, stop=Stop()).nats, rel=1e-4)
