"""GPT and Llama are transformers' models: the same logits, gradients, and exported folders that it loads."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pretrain.errors import UsageError
from pretrain.exporting.huggingface import from_huggingface, huggingface_config, to_huggingface, write_huggingface
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.llama import Llama
from pretrain.models.mlp import MLP
from pretrain.tokenizers.bpe import BytePairEncoding
from pretrain.tokenizers.byte import Bytes
from pretrain.tokenizers.characters import Characters
from pretrain.tokenizers.tokenizer import Tokenizer, TokenizerTrainer
from pretrain.tokenizers.unigram import Unigram

V = 97
Pair = Callable[[], tuple[LanguageModel, Any]]


def llama(vocab_size: int = V, **changed: Any) -> LanguageModel:
    settings = {"context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_hidden": 48}
    settings |= {"rotary_base": 500.0, "tied": False, "dropout": 0.0, "n_expert": 0, "n_active": 2}
    return Llama(vocab_size, **(settings | changed)).eval()


def gpt(vocab_size: int = V) -> LanguageModel:
    return GPT(vocab_size, context_length=16, n_layer=2, n_head=4, n_embd=32, dropout=0.0).eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models here are tiny: one thread computes them faster than two that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def transformers() -> Any:
    import transformers

    return transformers


def theirs_of(transformers: Any, model: LanguageModel) -> Any:
    """transformers' model of the same shape, with its own random weights."""
    config = huggingface_config(model)
    architecture = getattr(transformers, config["architectures"][0])
    torch.manual_seed(0)
    made = architecture(architecture.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # theirs begins with norms of 1 and biases of 0, which would hide a mistake
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


MODELS = {
    "gpt": gpt,
    "llama": llama,
    "llama tied": lambda: llama(tied=True),
    "llama without groups": lambda: llama(n_kv_head=4),
    "mixtral": lambda: llama(n_expert=3),
    "mixtral tied": lambda: llama(n_expert=4, n_active=3, tied=True),
}


def in_files(theirs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As they are in files: in memory transformers keeps the experts of a Mixtral in one tensor."""
    found = {}
    for name, tensor in theirs.items():
        start, is_moe, end = name.partition(".mlp.experts.")
        if not is_moe:
            found[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
            continue
        names = ("w1", "w3") if end == "gate_up_proj" else ("w2",)
        for expert, whole in enumerate(tensor):
            for part, matrix in zip(names, whole.chunk(len(names)), strict=True):
                found[f"{start}.block_sparse_moe.experts.{expert}.{part}.weight"] = matrix
    return found


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_equal_transformers(name: str, transformers: Any) -> None:
    ours = MODELS[name]()
    theirs = theirs_of(transformers, ours)
    ours.load_weights(from_huggingface(in_files(theirs.state_dict()), ours))
    tokens = torch.randint(0, V, (3, 17), generator=torch.Generator().manual_seed(1))
    rows, targets = tokens[:, :-1], tokens[:, 1:]

    logits = theirs(rows).logits
    assert (ours(rows) - logits).abs().max() < 1e-5

    ours.token_losses(rows, targets)[0].mean().backward()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() <= theirs.state_dict().keys()
    expected = from_huggingface(in_files(gradients), ours)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - expected[name]).abs().max() < 1e-4
        assert expected[name].abs().max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_names_are_turned_there_and_back(name: str) -> None:
    ours = MODELS[name]()
    back = from_huggingface(to_huggingface(ours), ours)
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[name], weight) for name, weight in ours.state_dict().items())


TOKENIZERS: dict[str, TokenizerTrainer] = {
    "bpe": BytePairEncoding(vocab_size=320, splitting="scripts", sample_bytes=10**6),
    "unigram": Unigram(
        vocab_size=500, splitting="gpt2", character_coverage=1.0, max_piece_length=16, sample_bytes=10**6
    ),
    "bytes": Bytes(),
    "characters": Characters(min_count=1, sample_bytes=10**6),
}
EXPORTED = {
    "gpt": (gpt, "bpe"),
    "llama": (llama, "unigram"),
    "llama tied": (lambda size: llama(size, tied=True), "bytes"),
    "mixtral": (lambda size: llama(size, n_expert=3), "characters"),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_from_pretrained_loads_an_exported_folder(
    name: str, transformers: Any, tiny_corpus: list[str], tmp_path: Path
) -> None:
    build, trainer = EXPORTED[name]
    tokenizer = TOKENIZERS[trainer].train(tiny_corpus)
    torch.manual_seed(0)
    ours = build(tokenizer.vocab_size)
    holds = write_huggingface(ours, tokenizer, tmp_path / "out")
    assert holds["parameters"] == ours.parameter_count()

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in [*tiny_corpus, "  two  spaces ", "naïve ½ 🙂\r\n"]:
        assert read(text)["input_ids"] == tokenizer.encode(text)
        assert read.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert read.eos_token_id == read.bos_token_id == tokenizer.end_of_text
    assert model.generation_config.eos_token_id == model.config.bos_token_id == tokenizer.end_of_text
    rows = torch.tensor([tokenizer.encode(tiny_corpus[0])[:16]])
    assert (model(rows).logits - ours(rows)).abs().max() < 1e-5


def exported(folder: Path, tokenizer: Tokenizer) -> None:
    write_huggingface(gpt(tokenizer.vocab_size), tokenizer, folder)


def test_a_second_export_replaces_the_first_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        exported(tmp_path / "out", Bytes().train([]))
    torch.manual_seed(1)
    expected = to_huggingface(gpt(257))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_leaves_the_one_before_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(tmp_path / "out", Bytes().train([]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(self: Any, path: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("pretrain.tokenizers.byte.ByteTokenizer.save", full)
    with pytest.raises(OSError, match="no space left"):
        exported(tmp_path / "out", Bytes().train([]))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="out is a file; name a folder"):
        exported(tmp_path / "out", Bytes().train([]))


def test_a_model_in_bf16_is_said_to_be(tmp_path: Path) -> None:
    write_huggingface(gpt(257).bfloat16(), Bytes().train([]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


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
