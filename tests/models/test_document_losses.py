"""Documents that do not see each other in a row: as if each were a row of its own. One test runs over all models."""

import pytest
import torch

from pretrain import cli, config
from pretrain.models.language_model import IGNORED, LanguageModel, documents_in, positions_in

V, EOT = 23, 0
TINY = {
    "mlp": ["model.n_embd=8", "model.n_hidden=16", "model.context_length=3"],
    "gpt_nano": ["model.n_embd=16", "model.n_layer=2", "model.n_head=2", "model.context_length=16"],
}
# Rows that begin with a document, inside one, with one of a single token, and with no border at all.
ROWS = torch.tensor(
    [
        [0, 5, 6, 7, 0, 8, 9, 1, 2, 3, 0, 4, 6],
        [5, 6, 7, 0, 8, 9, 1, 2, 3, 4, 5, 6, 0],
        [0, 0, 5, 0, 6, 6, 6, 6, 0, 7, 8, 9, 1],
        [5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
)


@pytest.fixture(params=TINY)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    settings = cli._composed("train", [f"model={request.param}", *TINY[request.param]])
    model: LanguageModel = config.build(config.Part(settings["model"]), vocab_size=V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def losses(model: LanguageModel, rows: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
    tokens = rows[:, :-1]
    targets = rows[:, 1:] if targets is None else targets
    return model.document_losses(tokens, targets, documents_in(tokens, EOT))


def one_by_one(model: LanguageModel, row: list[int]) -> list[float]:
    """Nats of each target of a row, each document a row of its own."""
    starts = [place for place, token in enumerate(row[:-1]) if token == EOT or place == 0]
    nats: list[float] = []
    for start, end in zip(starts, [*starts[1:], len(row) - 1], strict=True):
        found, _ = model.token_losses(torch.tensor([row[start:end]]), torch.tensor([row[start + 1 : end + 1]]))
        nats += found[0].tolist()
    return nats


def test_each_document_loses_what_it_loses_alone(model: LanguageModel) -> None:
    found = losses(model, ROWS)
    for row, nats in zip(ROWS.tolist(), found.tolist(), strict=True):
        assert nats == pytest.approx(one_by_one(model, row), abs=1e-5)


def test_a_row_without_a_border_loses_what_it_does_anyway(model: LanguageModel) -> None:
    plain, _ = model.token_losses(ROWS[:, :-1], ROWS[:, 1:])
    assert torch.allclose(losses(model, ROWS)[3], plain[3], atol=1e-5)
    assert (losses(model, ROWS)[0] - plain[0]).abs().max() > 0.01


def test_no_document_changes_another_ones_loss(model: LanguageModel) -> None:
    changed = ROWS.clone()
    changed[0, 1:4] = torch.tensor([9, 9, 9])
    before, after = losses(model, ROWS)[0], losses(model, changed)[0]
    assert torch.allclose(before[4:], after[4:], atol=1e-6)
    assert not torch.allclose(before[:4], after[:4], atol=1e-3)


def test_ignored_targets_lose_nothing_and_gradients_are_those_of_the_documents_alone(model: LanguageModel) -> None:
    targets = ROWS[:, 1:].clone()
    targets[1, :5] = IGNORED
    nats = losses(model, ROWS, targets)
    assert (nats[1, :5] == 0).all()
    together = torch.autograd.grad(nats.sum(), list(model.parameters()))
    fallback = LanguageModel.document_losses(model, ROWS[:, :-1], targets, documents_in(ROWS[:, :-1], EOT))
    alone = torch.autograd.grad(fallback.sum(), list(model.parameters()))
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_both_paths_of_attention_keep_documents_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = cli._composed("train", ["model=gpt_nano", *TINY["gpt_nano"]])
    gpt = config.build(config.Part(settings["model"]), vocab_size=V).double().eval()
    explicit = losses(gpt, ROWS)
    monkeypatch.setattr("pretrain.models.attending.EXPLICIT_UP_TO", 0)
    assert torch.allclose(explicit, losses(gpt, ROWS), atol=1e-6)


def test_documents_and_positions_of_a_row() -> None:
    documents = documents_in(torch.tensor([[5, 0, 6, 7, 0, 0, 8], [0, 1, 2, 3, 4, 5, 6]]), EOT)
    assert documents.tolist() == [[0, 1, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 1, 1]]
    assert positions_in(documents).tolist() == [[0, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6]]
