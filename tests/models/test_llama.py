"""Llama alone: what its parts promise, and what it refuses. What holds for every model is in test_all_models.py."""

from typing import Any

import pytest
import torch

from pretrain import cli, config
from pretrain.errors import ConfigError
from pretrain.models.llama import Llama

V = 23


def llama(**changed: Any) -> Llama:
    settings = {"context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_hidden": 24}
    settings |= {"rotary_base": 1e4, "tied": True, "dropout": 0.0, "n_expert": 0, "n_active": 2}
    torch.manual_seed(0)
    return Llama(V, **(settings | changed)).eval()


def tokens(length: int = 12) -> torch.Tensor:
    return torch.randint(V, (3, length), generator=torch.Generator().manual_seed(1))


def test_a_shared_head_of_keys_and_values_is_as_good_as_copies_of_it() -> None:
    few, many = llama(n_kv_head=2), llama(n_kv_head=4)
    weights = few.state_dict()
    for layer in range(2):
        name = f"blocks.{layer}.attention.query_key_value.weight"
        query, key, value = weights[name].view(8, 8, 32).split([4, 2, 2])  # (heads, D, C)
        parts = [query, key.repeat_interleave(2, dim=0), value.repeat_interleave(2, dim=0)]
        weights[name] = torch.cat(parts).flatten(0, 1)
    many.load_weights(weights)
    assert torch.allclose(few(tokens()), many(tokens()), atol=1e-6)


def test_a_document_inside_a_row_loses_what_it_loses_alone() -> None:
    model = llama()
    rows = tokens()
    late = torch.zeros_like(rows)
    late[:, 5:] = 1  # the second of two documents
    alone, _ = model.token_losses(rows[:, 5:-1], rows[:, 6:])
    in_row = model.document_losses(rows[:, :-1], rows[:, 1:], late[:, :-1])
    assert torch.allclose(in_row[:, 5:], alone, atol=1e-6)


def test_the_rotary_base_and_the_order_of_tokens_matter() -> None:
    rows = tokens()
    swapped = rows[:, [1, 0, *range(2, 12)]]
    assert not torch.allclose(llama()(rows)[:, -1], llama()(swapped)[:, -1])
    assert not torch.allclose(llama()(rows), llama(rotary_base=10.0)(rows))


def test_a_tied_head_is_the_embedding_and_another_one_is_not() -> None:
    assert llama(tied=False).parameter_count() == llama().parameter_count() + V * 32
    assert not [name for name, _ in llama().named_parameters() if "bias" in name]


def test_experts_take_the_place_of_the_feed_forward_layer() -> None:
    one = 3 * 32 * 24
    assert llama(n_expert=3).parameter_count() == llama().parameter_count() + 2 * (2 * one + 3 * 32)


def test_dropout_is_for_training_only() -> None:
    model = llama(dropout=0.5)
    assert torch.equal(model(tokens()), model(tokens()))
    model.train()
    assert not torch.equal(model(tokens()), model(tokens()))


def test_step_by_step_in_bf16_is_within_its_rounding_of_the_row_at_once() -> None:
    model = llama().bfloat16()
    rows = tokens()
    whole = model(rows)
    logits, state = model.next_logits(rows[:, :4], torch.full((3,), 4))
    for place in range(4, 12):
        logits, state = model.next_logits(rows[:, place : place + 1], torch.ones(3, dtype=torch.long), state)
        assert (logits - whole[:, place]).abs().max() <= 2**-7 * whole.abs().max()


@pytest.mark.parametrize("length", [0, 1, 16])
def test_rows_of_any_length_up_to_the_context_are_read(length: int) -> None:
    assert llama()(tokens(length)).shape == (3, length, V)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_embd": 36}, "gives heads of odd width"),
        ({"n_expert": 2, "n_active": 3}, r"model\.n_active=3 is more than model\.n_expert=2; try 2"),
    ],
)
def test_what_does_not_fit_together_is_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        llama(**changed)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.n_kv_head=3", "model.n_head=4 is not a multiple of model.n_kv_head=3; try 3"),
        ("model.n_embd=130", "model.n_embd=130 is not a multiple of model.n_head=4; try 128"),
        ("model.rotary_base=1", "model.rotary_base=1 is not a number above 1"),
        ("model.n_hiden=8", "did you mean model.n_hidden?"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_type(word: str, message: str, capsys: Any) -> None:
    assert cli.main(["train", "model=llama", word]) == 2
    assert message in capsys.readouterr().err


def test_a_row_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"try trainer\.sequence_length=16"):
        llama()(tokens(17))


@pytest.mark.parametrize("name", ["llama", "llama_15m", "llama_110m", "llama2_7b", "llama3_70b"])
def test_a_run_of_a_preset_is_longer_than_its_warm_up(name: str) -> None:
    settings = config.parse(cli._composed("train", [f"model={name}"]), config.TrainConfig)
    trainer = settings.trainer
    steps = trainer.max_steps or trainer.max_tokens // trainer.batch_tokens
    assert settings.schedule["warmup_steps"] < steps / 2
