"""Models in the format of transformers (https://github.com/huggingface/transformers), and its weights in ours.

Both are the same numbers under other names: transformers keeps GPT-2's matrices transposed, Llama's queries, keys and
values, and its gates and values, apart, and a file of Mixtral's has each expert by itself.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor

from pretrain.errors import UsageError
from pretrain.models.experts import Experts
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.llama import EPS, Llama
from pretrain.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One tensor of ours, and those of transformers that make it up.

    Attributes:
        theirs: names, in the order in which they are stacked along the first dimension, or first two of experts.
        sizes: of each along it.
        transposed: whether theirs is the transposed one.
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: list[int]
    transposed: bool = False


def write_huggingface(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> dict[str, int]:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load with from_pretrained.

    Each file is written whole or not at all. Their tokenizer reads the end of text in a text as that token, where ours
    takes it for plain text; and it puts none before a prompt, where our sampling does.

    Returns:
        what it holds, for people.
    Raises:
        UsageError: transformers has no class for this model, or `folder` is a file.
    """
    config, weights = huggingface_config(model), to_huggingface(model)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"path={folder} is a file; name a folder")
    end = tokenizer.end_of_text
    ends = {"bos_token_id": end, "eos_token_id": end}  # every document begins behind one
    config |= ends | {"dtype": str(next(iter(weights.values())).dtype).removeprefix("torch.")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        written = Path(temporary)
        save_file(weights, written / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(written / "tokenizer.json")
        name = tokenizers.Tokenizer.from_file(str(written / "tokenizer.json")).id_to_token(end)
        of_tokenizer = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name,
            "eos_token": name,
            "model_max_length": model.context_length,
        }
        _write(written / "config.json", config)
        _write(written / "generation_config.json", ends | {"pad_token_id": end})
        _write(written / "tokenizer_config.json", of_tokenizer)
        folder.mkdir(exist_ok=True)
        for file in written.iterdir():
            file.replace(folder / file.name)
    return {"tensors": len(weights), "parameters": model.parameter_count(), "ids": tokenizer.vocab_size}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def to_huggingface(model: LanguageModel) -> dict[str, Tensor]:
    """The model's weights under the names of transformers."""
    ours = model.state_dict()
    theirs = {}
    for piece in pieces(model):
        whole = ours[piece.ours].cpu()
        rows = whole.flatten(0, 1) if whole.dim() == 3 else whole  # of all experts, one after the other
        for name, part in zip(piece.theirs, torch.split(rows, piece.sizes), strict=True):
            theirs[name] = (part.T if piece.transposed else part).contiguous()
    return theirs


def from_huggingface(theirs: Mapping[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """Weights of transformers' model of the same shape, or their gradients, under the names of `model`.

    Args:
        theirs: under the names of its files; of a tied head the embedding counts.
    """
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    ours = {}
    for piece in pieces(model):
        parts = [theirs[name].T if piece.transposed else theirs[name] for name in piece.theirs]
        ours[piece.ours] = torch.cat(parts).view(shapes[piece.ours])
    return ours


def huggingface_config(model: LanguageModel) -> dict[str, Any]:
    """What config.json says of the model's shape.

    Raises:
        UsageError: transformers has no class for this model.
    """
    if isinstance(model, GPT) and model.position_embedding is not None and not _has_experts(model):
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": model.vocab_size,
            "n_positions": model.context_length,
            "n_layer": len(model.blocks),
            "n_head": model.n_head,
            "n_embd": model.n_head * model.head_width,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": model.norm.eps,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), model.dropout.share),
            "tie_word_embeddings": True,
        }
    if isinstance(model, Llama):
        n_head, n_kv_head, _ = _heads(model)
        return {
            "vocab_size": model.vocab_size,
            "max_position_embeddings": model.context_length,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": n_head,
            "num_key_value_heads": n_kv_head,
            "hidden_size": n_head * model.head_width,
            "hidden_act": "silu",
            "rms_norm_eps": EPS,
            "rope_theta": model.rotary_base,  # where transformers looked before its version 5
            "rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base},
            "tie_word_embeddings": model.output is None,
            **_feed_forward(model),
        }
    raise UsageError(
        f"transformers has no class for this {type(model).__name__}; to=huggingface is for Llamas, and for GPTs "
        "with learned positions and without experts"
    )


def _feed_forward(model: Llama) -> dict[str, Any]:
    """The part of config.json in which Llama and Mixtral differ."""
    layer: Any = model.blocks[0].feed_forward
    if isinstance(layer, Experts):
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "intermediate_size": layer.output.shape[2],
            "num_local_experts": len(layer.output),
            "num_experts_per_tok": layer.n_active,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": layer.output.in_features,
        "attention_bias": False,
        "mlp_bias": False,
    }


def pieces(model: LanguageModel) -> Iterator[Piece]:
    """All tensors of a GPT or a Llama.

    Raises:
        UsageError: the model is neither.
    """
    huggingface_config(model)
    ours = model.state_dict()
    if isinstance(model, GPT):
        yield from _gpt2(len(model.blocks), ours)
    elif isinstance(model, Llama):
        yield from _llama(model, ours)


def _gpt2(n_layer: int, ours: Mapping[str, Tensor]) -> Iterator[Piece]:
    names = {
        "token_embedding.weight": "transformer.wte.weight",
        "position_embedding.weight": "transformer.wpe.weight",
        "norm.weight": "transformer.ln_f.weight",
        "norm.bias": "transformer.ln_f.bias",
    }
    of_block = {
        "attention_norm": "ln_1",
        "attention.query_key_value": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.input": "mlp.c_fc",
        "feed_forward.output": "mlp.c_proj",
    }
    for layer in range(n_layer):
        for mine, other in of_block.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{mine}.{kind}"] = f"transformer.h.{layer}.{other}.{kind}"
    for mine, other in names.items():
        matrix = mine.startswith("blocks") and ours[mine].dim() == 2
        yield Piece(mine, (other,), [len(ours[mine])], transposed=matrix)


def _llama(model: Llama, ours: Mapping[str, Tensor]) -> Iterator[Piece]:
    def whole(mine: str, other: str) -> Piece:
        return Piece(mine, (other,), [len(ours[mine])])

    yield whole("token_embedding.weight", "model.embed_tokens.weight")
    heads = [count * model.head_width for count in _heads(model)]
    for layer in range(len(model.blocks)):
        mine, other = f"blocks.{layer}", f"model.layers.{layer}"
        attention = tuple(f"{other}.self_attn.{name}_proj.weight" for name in "qkv")
        yield whole(f"{mine}.attention_norm.weight", f"{other}.input_layernorm.weight")
        yield Piece(f"{mine}.attention.query_key_value.weight", attention, heads)
        yield whole(f"{mine}.attention.output.weight", f"{other}.self_attn.o_proj.weight")
        yield whole(f"{mine}.feed_forward_norm.weight", f"{other}.post_attention_layernorm.weight")
        if f"{mine}.feed_forward.router.weight" in ours:
            yield whole(f"{mine}.feed_forward.router.weight", f"{other}.block_sparse_moe.gate.weight")
            yield from _experts(f"{mine}.feed_forward", f"{other}.block_sparse_moe.experts", ours)
            continue
        gates = (f"{other}.mlp.gate_proj.weight", f"{other}.mlp.up_proj.weight")
        half = len(ours[f"{mine}.feed_forward.input.weight"]) // 2
        yield Piece(f"{mine}.feed_forward.input.weight", gates, [half, half])
        yield whole(f"{mine}.feed_forward.output.weight", f"{other}.mlp.down_proj.weight")
    yield whole("norm.weight", "model.norm.weight")
    if model.output is not None:
        yield whole("output.weight", "lm_head.weight")


def _experts(mine: str, other: str, ours: Mapping[str, Tensor]) -> Iterator[Piece]:
    n_expert, n_embd, n_hidden = ours[f"{mine}.output"].shape
    gates = tuple(f"{other}.{expert}.{name}.weight" for expert in range(n_expert) for name in ("w1", "w3"))
    back = tuple(f"{other}.{expert}.w2.weight" for expert in range(n_expert))
    yield Piece(f"{mine}.input", gates, [n_hidden] * 2 * n_expert)
    yield Piece(f"{mine}.output", back, [n_embd] * n_expert)


def _heads(model: Llama) -> list[int]:
    """Heads of queries, of keys, of values."""
    block: Any = model.blocks[0]
    return list(block.attention.heads)


def _has_experts(model: LanguageModel) -> bool:
    return any(isinstance(part, Experts) for part in model.modules())
