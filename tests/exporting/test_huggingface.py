"""GPT and Llama are transformers' models: the same logits, gradients, and exported folders that it loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.errors import UsageError
from pretrain.exporting.huggingface import from_huggingface, pieces, to_huggingface, write_huggingface
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.llama import Llama
from pretrain.models.mlp import MLP
from pretrain.tokenizers.loading import load

V = 97
Pair = Callable[[], tuple[LanguageModel, Any]]


def llama(**changed: Any) -> Llama:
    settings = {"context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_hidden": 48}
    settings |= {"rotary_base": 500.0, "tied": False, "dropout": 0.0, "n_expert": 0, "n_active": 2}
    return Llama(V, **(settings | changed))


def gpt(vocab_size: int = V) -> GPT:
    return GPT(vocab_size, context_length=16, n_layer=2, n_head=4, n_embd=32, dropout=0.0)


@pytest.fixture(scope="module")
def transformers() -> Any:
    import transformers

    return transformers


def theirs_of(transformers: Any, model: LanguageModel) -> Any:
    """transformers' model of the same shape, with its own random weights."""
    from pretrain.exporting.huggingface import huggingface_config

    config = huggingface_config(model)
    kind = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}[config["model_type"]]
    torch.manual_seed(0)
    made = getattr(transformers, config["architectures"][0])(kind(**config)).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # theirs begins with norms of 1 and biases of 0, which would hide a mistake
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


MODELS = {
    "gpt": gpt,
    "llama": llama,
    "llama tied": lambda: llama(tied=True),
    "llama without groups": lambda: llama(n_kv_head=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_equal_transformers(name: str, transformers: Any) -> None:
    ours = MODELS[name]()
    theirs = theirs_of(transformers, ours)
    ours.load_weights(from_huggingface(theirs.state_dict(), ours))
    tokens = torch.randint(0, V, (3, 17), generator=torch.Generator().manual_seed(1))
    rows, targets = tokens[:, :-1], tokens[:, 1:]

    logits = theirs(rows).logits
    assert (ours(rows) - logits).abs().max() < 1e-5

    ours.token_losses(rows, targets)[0].mean().backward()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for piece in pieces(ours):
        wanted = torch.cat([expected[other].T if piece.transposed else expected[other] for other in piece.theirs])
        found = gradients[piece.ours]
        assert found is not None
        assert (found - wanted).abs().max() < 1e-4
        assert wanted.abs().max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_names_are_turned_there_and_back(name: str) -> None:
    ours = MODELS[name]()
    back = from_huggingface(to_huggingface(ours), ours)
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[name], weight) for name, weight in ours.state_dict().items())


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_from_pretrained_loads_an_exported_folder(
    kind: str, transformers: Any, tokenizer_file: Path, tmp_path: Path
) -> None:
    tokenizer = load(tokenizer_file)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"context_length": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
    settings |= {"n_hidden": 48, "rotary_base": 500.0, "tied": False, "dropout": 0.0, "n_expert": 0, "n_active": 2}
    ours = gpt(tokenizer.vocab_size) if kind == "gpt" else Llama(tokenizer.vocab_size, **settings)
    ours.eval()
    holds = write_huggingface(ours, tokenizer, tmp_path / "out")
    assert holds["parameters"] == ours.parameter_count()

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    text = "The cat sat."
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = read(text)["input_ids"]
    assert ids == tokenizer.encode(text)
    assert read.decode(ids) == text
    assert read.eos_token_id == tokenizer.end_of_text
    rows = torch.tensor([ids[:16]])
    assert (model(rows).logits - ours(rows)).abs().max() < 1e-5
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == tokenizer.end_of_text


@pytest.mark.parametrize(
    "model",
    [
        MLP(V, context_length=1, n_embd=4, n_hidden=4),
        GPT(V, context_length=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, positions="alibi"),
        GPT(V, context_length=4, n_layer=1, n_head=1, n_embd=4, dropout=0.0, n_expert=2),
    ],
)
def test_what_transformers_has_no_class_for_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UsageError, match="transformers has no class for this"):
        to_huggingface(model)
