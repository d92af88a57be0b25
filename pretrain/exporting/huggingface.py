"""Models in the format of transformers (https://github.com/huggingface/transformers), and its weights in ours.

Both are the same numbers under other names: transformers keeps GPT-2's matrices transposed, and Llama's queries, keys
and values, and its gates and values, apart.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pretrain.errors import UsageError
from pretrain.models.gpt import GPT
from pretrain.models.language_model import LanguageModel
from pretrain.models.llama import EPS, Llama
from pretrain.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One tensor of ours, and those of transformers that make it up.

    Attributes:
        theirs: names, in the order in which they are stacked along the first dimension.
        sizes: of each along it.
        transposed: whether theirs is the transposed one.
    """

    ours: str
    theirs: tuple[str, ...]
    sizes: list[int]
    transposed: bool = False


def write_huggingface(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> dict[str, int]:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load with from_pretrained.

    Returns:
        what it holds, for people.
    Raises:
        UsageError: transformers has no class for this model.
    """
    config = huggingface_config(model) | {
        "bos_token_id": tokenizer.end_of_text,  # every document begins behind one
        "eos_token_id": tokenizer.end_of_text,
        "dtype": "float32",
    }
    weights = to_huggingface(model)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(folder / "tokenizer.json")
    end = _end_of_text(folder / "tokenizer.json", tokenizer.end_of_text)
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": model.context_length,
    }
    for name, content in (("config.json", config), ("tokenizer_config.json", names)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return {"tensors": len(weights), "parameters": model.parameter_count(), "ids": tokenizer.vocab_size}


def to_huggingface(model: LanguageModel) -> dict[str, Tensor]:
    """The model's weights under the names of transformers."""
    ours = model.state_dict()
    theirs = {}
    for piece in pieces(model):
        for name, part in zip(piece.theirs, torch.split(ours[piece.ours].cpu(), piece.sizes), strict=True):
            theirs[name] = (part.T if piece.transposed else part).contiguous()
    return theirs


def from_huggingface(theirs: Mapping[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """Weights of transformers' model of the same shape, under the names of `model`."""
    return {
        piece.ours: torch.cat([theirs[name].T if piece.transposed else theirs[name] for name in piece.theirs])
        for piece in pieces(model)
    }


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
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), model.dropout.p),
            "tie_word_embeddings": True,
        }
    if isinstance(model, Llama) and not _has_experts(model):
        n_head, n_kv_head, _ = _heads(model)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": model.vocab_size,
            "max_position_embeddings": model.context_length,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": n_head,
            "num_key_value_heads": n_kv_head,
            "hidden_size": n_head * model.head_width,
            "intermediate_size": model.state_dict()["blocks.0.feed_forward.output.weight"].shape[1],
            "hidden_act": "silu",
            "rms_norm_eps": EPS,
            "rope_theta": model.rotary_base,  # where transformers looked before its version 5
            "rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base},
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": model.output is None,
        }
    raise UsageError(
        f"transformers has no class for this {type(model).__name__}; to=huggingface is for GPTs with learned "
        "positions and for Llamas, both without experts"
    )


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
        gates = (f"{other}.mlp.gate_proj.weight", f"{other}.mlp.up_proj.weight")
        half = len(ours[f"{mine}.feed_forward.input.weight"]) // 2
        yield whole(f"{mine}.attention_norm.weight", f"{other}.input_layernorm.weight")
        yield Piece(f"{mine}.attention.query_key_value.weight", attention, heads)
        yield whole(f"{mine}.attention.output.weight", f"{other}.self_attn.o_proj.weight")
        yield whole(f"{mine}.feed_forward_norm.weight", f"{other}.post_attention_layernorm.weight")
        yield Piece(f"{mine}.feed_forward.input.weight", gates, [half, half])
        yield whole(f"{mine}.feed_forward.output.weight", f"{other}.mlp.down_proj.weight")
    yield whole("norm.weight", "model.norm.weight")
    if model.output is not None:
        yield whole("output.weight", "lm_head.weight")


def _heads(model: Llama) -> list[int]:
    """Heads of queries, of keys, of values."""
    block: Any = model.blocks[0]
    return list(block.attention.heads)


def _has_experts(model: LanguageModel) -> bool:
    return any("router" in name for name in model.state_dict())


def _end_of_text(path: Path, token: int) -> str:
    """The name of the end of text in a tokenizer.json."""
    added = json.loads(path.read_text("utf-8"))["added_tokens"]
    return next(str(item["content"]) for item in added if item["id"] == token)
