"""The presets are the models of their papers: exact counts of parameters, at the papers' own vocabularies."""

import pytest
import torch

from pretrain import cli, config
from pretrain.models.language_model import LanguageModel

# OpenAI's GPT-2, llama2.c's, TinyLlama's and Meta's, as their own checkpoints count them; GPT-3's are its table 2.1's,
# to its digits.
COUNTS = {
    "gpt2_small": (50_257, 124_439_808),
    "gpt2_medium": (50_257, 354_823_168),
    "gpt2_large": (50_257, 774_030_080),
    "gpt2_xl": (50_257, 1_557_611_200),
    "llama_15m": (32_000, 15_191_712),
    "llama_42m": (32_000, 41_689_600),
    "llama_110m": (32_000, 109_529_856),
    "llama_1b": (32_000, 1_100_048_384),
    "llama2_7b": (32_000, 6_738_415_616),
    "llama2_13b": (32_000, 13_015_864_320),
    "llama2_70b": (32_000, 68_976_648_192),
    "llama3_8b": (128_256, 8_030_261_248),
    "llama3_70b": (128_256, 70_553_706_496),
}
ABOUT = {
    "gpt3_small": 125e6,
    "gpt3_medium": 350e6,
    "gpt3_large": 760e6,
    "gpt3_xl": 1.3e9,
    "gpt3_2.7b": 2.7e9,
    "gpt3_6.7b": 6.7e9,
    "gpt3_13b": 13e9,
    "gpt3_175b": 175e9,
}


def count(name: str, vocab_size: int) -> int:
    with torch.device("meta"):
        settings = cli._composed("train", [f"model={name}"])["model"]
        model: LanguageModel = config.build(config.Part(settings), vocab_size=vocab_size)
    return model.parameter_count()


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_exactly_its_papers_parameters(name: str) -> None:
    vocab_size, expected = COUNTS[name]
    assert count(name, vocab_size) == expected


@pytest.mark.parametrize("name", ABOUT)
def test_gpt3_has_about_its_tables_parameters(name: str) -> None:
    assert count(name, 50_257) == pytest.approx(ABOUT[name], rel=0.03)
