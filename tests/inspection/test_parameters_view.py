"""`inspect parameters`: exact counts, FLOPs against published formulas, and what autograd really keeps."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from pretrain import cli, config
from pretrain.commands.train import build_model
from pretrain.errors import ConfigError
from pretrain.inspection.parameters import (
    ParametersView,
    attention_weights_per_token,
    components,
    flops_per_token,
    hollow,
    ngrams_by_order,
    saved_per_token,
    tables,
)
from pretrain.inspection.view import Subject
from pretrain.models.language_model import LanguageModel


def hollow_model(name: str, *words: str, vocab_size: int = 50_257) -> tuple[LanguageModel, dict[str, Any]]:
    settings = cli._composed("inspect", ["view=parameters", f"model={name}", *words])["model"]
    with hollow():
        return build_model(config.Part(settings), settings.get("vocab_size") or vocab_size), settings


def test_gpt2_smalls_attention_to_feed_forward_is_one_to_two() -> None:
    found = components(hollow_model("gpt2_small")[0])
    assert sum(found.values()) == 124_439_808
    assert found["feed_forward"] / found["attention"] == pytest.approx(2, abs=0.001)
    assert found["embedding"] == (50_257 + 1024) * 768
    assert found["head"] == 0


def test_two_thirds_of_gpt3_are_feed_forward_layers() -> None:
    model, _ = hollow_model("gpt3_175b")
    found = components(model)
    assert round(found["feed_forward"] / 1e9) == 116
    assert round(100 * found["feed_forward"] / sum(found.values())) == 66
    assert all(parameter.is_meta for parameter in model.parameters())  # no memory


@pytest.mark.parametrize("name", ["gpt_nano", "llama", "modern", "mlp", "rnn", "lstm", "attention", "encoder_decoder"])
def test_components_sum_to_the_parameters_of_the_model_with_values(name: str) -> None:
    model, settings = hollow_model(name, vocab_size=50)
    full: LanguageModel = config.build(config.Part(settings), vocab_size=50)
    assert components(model) == components(full)
    assert sum(components(full).values()) == full.parameter_count()


def test_an_own_output_is_the_head_and_recurrent_layers_are_recurrent() -> None:
    untied = components(hollow_model("llama", "model.tied=false", vocab_size=100)[0])
    assert untied["head"] == 100 * 128
    assert set(components(hollow_model("gru")[0])) >= {"embedding", "recurrent", "head"}
    assert "feed_forward" in components(hollow_model("gpt_nano", "model.n_expert=4")[0])


def test_building_without_values_does_not_import_the_compiler() -> None:
    """Which takes longer than all else; in a process of its own, for another test may have imported it."""
    code = """
import sys, torch
from pretrain.inspection.parameters import hollow
with hollow():
    layer, table = torch.nn.Linear(10**6, 10**6), torch.nn.Embedding(10**6, 10**6)
assert layer.weight.is_meta and table.weight.is_meta
assert "torch._inductor" not in sys.modules and "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_flops_are_those_of_palms_appendix_but_for_biases_and_norms() -> None:
    model, _ = hollow_model("gpt2_small")
    without_positions = 124_439_808 - 1024 * 768
    palm = 6 * without_positions + 12 * 12 * 768 * 1024
    training = 3 * flops_per_token(model, 1024)["forward"]
    assert training < palm
    assert training == pytest.approx(palm, rel=0.001)
    # all products by hand: a layer's 12 C^2 weights, its two products with T keys, and the head
    assert training == 3 * (12 * (24 * 768**2 + 4 * 1024 * 768) + 2 * 50_257 * 768)


def test_of_experts_only_those_that_a_token_passes_cost_flops() -> None:
    dense, _ = hollow_model("gpt_nano")
    one, _ = hollow_model("gpt_nano", "model.n_expert=8", "model.n_active=1")
    two, _ = hollow_model("gpt_nano", "model.n_expert=8", "model.n_active=2")
    costs = [flops_per_token(model, 64)["matrices"] for model in (dense, one, two)]
    width = dense.token_embedding.weight.shape[1]
    blocks = len(dense.blocks)
    assert costs[1] - costs[0] == 2 * blocks * 8 * width  # the router
    assert costs[2] - costs[1] == 2 * blocks * 8 * width**2  # one more expert of 8 C^2


SMALL = ["model.n_layer=2", "model.n_head=2", "model.n_embd=32", "model.context_length=320"]
RECURRENT = ["model.n_embd=32", "model.n_hidden=64"]


@pytest.mark.parametrize(
    ("name", "length", "words", "dtype"),
    [
        ("gpt_nano", 64, SMALL, torch.float32),
        ("gpt_nano", 64, SMALL, torch.bfloat16),
        ("gpt_nano", 320, SMALL, torch.float32),
        ("gpt_nano", 64, [*SMALL, "model.n_expert=4"], torch.float32),
        ("llama", 64, SMALL, torch.bfloat16),
        ("llama", 320, SMALL, torch.float32),
        ("modern", 64, SMALL, torch.float32),
        ("modern", 64, SMALL, torch.bfloat16),
        ("rnn", 64, RECURRENT, torch.float32),
        ("gru", 64, RECURRENT, torch.float32),
        ("lstm", 64, RECURRENT, torch.float32),
        ("mlp", 64, RECURRENT, torch.float32),
    ],
)
def test_the_estimate_of_activations_is_near_what_autograd_keeps(
    name: str, length: int, words: list[str], dtype: torch.dtype
) -> None:
    vocab_size = 37
    settings = cli._composed("train", [f"model={name}", *words])["model"]
    model: LanguageModel = config.build(config.Part(settings), vocab_size=vocab_size).to(dtype).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tensor.shape[-1:] != (vocab_size,):  # the logits are the loss's, not the layers'
            kept[place] = tensor
        return tensor

    tokens = torch.randint(vocab_size, (2, length))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.token_losses(tokens, tokens)[0].mean()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / (dtype.itemsize * tokens.numel())
    estimate = saved_per_token(model, length)
    if dtype == torch.bfloat16:
        estimate += attention_weights_per_token(model, length, settings.get("n_head"))
    assert estimate == pytest.approx(measured, rel=0.15)


def test_stored_ngrams_are_counted_by_order(subjects: dict[str, Subject]) -> None:
    model = subjects["ngram"].model
    found = components(model)
    assert list(found) == ["1-grams", "2-grams", "3-grams"]
    assert sum(found.values()) == model.parameter_count()
    stream = [subjects["ngram"].training.array().tolist()[i:] for i in range(3)]
    pairs = set(zip(stream[0], stream[1], strict=False))
    assert found["2-grams"] == len(pairs)
    assert ngrams_by_order(model.tables.trie)[0] == model.vocab_size  # type: ignore[union-attr]  # an n-gram has them


def test_a_chosen_model_wins_over_the_run(inspect: Any) -> None:
    code, own, _ = inspect("parameters", "run=gpt")
    assert code == 0
    code, chosen, _ = inspect("parameters", "run=gpt", "model=gpt2_small")
    assert code == 0
    assert (own["total"] < 20_000, chosen["total"]) == (True, 124_439_808)
    assert chosen["flops_per_token"]["training"] == 854_438_400
    assert sum(chosen["shares"].values()) == pytest.approx(1)
    code, other, _ = inspect("parameters", "model=gpt2_small", "model.vocab_size=50304", "view.rows=4")
    assert other["total"] == 124_439_808 + 47 * 768
    assert other["activations"]["layers"] == 4 * chosen["activations"]["layers"]


@pytest.mark.parametrize("name", ["ngram", "gpt"])
def test_the_tables_have_a_row_for_each_component(name: str, subjects: dict[str, Subject]) -> None:
    document = ParametersView(sequence_length=None, rows=1)(subjects[name].model, {"n_head": 2})
    first, *others = tables(document)
    assert len(first.rows) == len(document["components"]) + 1
    assert len(others) == (0 if name == "ngram" else 2)


def test_a_model_that_has_counted_nothing_and_settings_that_do_not_fit_are_refused_in_one_line(inspect: Any) -> None:
    code, _, said = inspect("parameters", "model=ngram")
    assert (code, said.count("\n")) == (2, 1)
    assert "run=" in said
    code, _, said = inspect("parameters", "model=gpt_nano", "model.n_head=3")
    assert (code, said.count("\n")) == (2, 1)
    assert "model.n_embd" in said
    assert inspect("parameters", "model=gpt2_smal")[0] == 2
    assert inspect("parameters", "model=gpt_nano", "path=somewhere")[0] == 2  # it draws nothing
    with pytest.raises(ConfigError, match="run="):
        ParametersView(sequence_length=None, rows=1)(hollow_model("prefix")[0], {})
