"""Reading a tokenizer.json back: which kind it is stands in what it holds."""

import json
from pathlib import Path

import tokenizers

from pretrain.errors import DataError
from pretrain.tokenizers.backend import BackendTokenizer
from pretrain.tokenizers.byte import ByteTokenizer
from pretrain.tokenizers.characters import CharacterTokenizer
from pretrain.tokenizers.tokenizer import Tokenizer


def load(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json.

    Raises:
        DataError: the file is not one.
    """
    try:
        content = path.read_text("utf-8")
        settings = json.loads(content)
        own = ByteTokenizer.from_settings(settings) or CharacterTokenizer.from_settings(settings)
        if own:
            return own
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        raise DataError(f"{path} is not a tokenizer: {error}") from error
    return BackendTokenizer(backend)
