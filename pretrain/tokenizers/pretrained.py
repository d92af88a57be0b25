"""A tokenizer that somebody else trained: from the hub, or a file of one of the three common formats."""

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tokenizers
import xxhash
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Regex, decoders, models, pre_tokenizers

from pretrain.errors import ConfigError, DataError
from pretrain.tokenizers.backend import BackendTokenizer
from pretrain.tokenizers.byte import byte_names
from pretrain.tokenizers.loading import load
from pretrain.tokenizers.sentencepiece_model import from_sentencepiece
from pretrain.tokenizers.splitting import SPLITTINGS
from pretrain.tokenizers.tokenizer import END_OF_TEXT, Tokenizer

FORMATS = (".json", ".model", ".tiktoken")
# Files of https://github.com/openai/tiktoken by their names: how they split, and the id of the end of text.
TIKTOKEN = {
    "gpt2": ("gpt2", 50256),
    "r50k_base": ("gpt2", 50256),
    "p50k_base": ("gpt2", 50256),
    "cl100k_base": ("gpt4", 100257),
}


class Pretrained:
    """What `path` names, as it is.

    Args:
        path: a tokenizer.json, a .model of SentencePiece, a .tiktoken, or the name of a repository on the hub.
        revision: of the repository: a branch, tag or commit; null for its main branch.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("tokenizers",)
    sample_bytes = 0

    def __init__(self, *, path: str, revision: str | None) -> None:
        self.path = path
        self.revision = revision

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Read it; nothing is learned.

        Raises:
            ConfigError: there is no such file or repository, or it cannot be reached.
            DataError: the file is not a tokenizer.
        """
        file = self._file()
        try:
            match file.suffix:
                case ".model":
                    return BackendTokenizer(from_sentencepiece(file.read_bytes()))
                case ".tiktoken":
                    return BackendTokenizer(from_tiktoken(file))
        except (ValueError, IndexError, KeyError) as error:
            raise DataError(f"{file} is not a tokenizer: {error}") from error
        return load(file)

    def fingerprint(self) -> str:
        """Of the file's content, so that another at the same path is another tokenizer; and of what its name says."""
        file = self._file()
        told = f"{file.suffix} {TIKTOKEN.get(file.stem)}" if file.suffix == ".tiktoken" else file.suffix
        return f"{told} {xxhash.xxh3_128_hexdigest(file.read_bytes())}"

    def _file(self) -> Path:
        local = Path(self.path).expanduser()
        if local.suffix in FORMATS or local.exists():
            if local.is_dir():
                local = local / "tokenizer.json"
                if not local.is_file():
                    raise ConfigError(f"tokenizer.path={self.path} is a folder without a tokenizer.json")
            if not local.is_file():
                raise ConfigError(f"tokenizer.path={self.path} does not exist")
            if local.suffix not in FORMATS:
                raise ConfigError(f"tokenizer.path={self.path} is none of {', '.join(FORMATS)}")
            return local
        try:
            return Path(hf_hub_download(self.path, "tokenizer.json", revision=self.revision))
        except LocalEntryNotFoundError as error:
            raise ConfigError(
                f"the hub cannot be reached and {HF_HUB_CACHE} does not hold the tokenizer of {self.path}; "
                "name a local file: tokenizer=pretrained tokenizer.path=tokenizer.json"
            ) from error
        except (HfHubHTTPError, HFValidationError) as error:
            raise ConfigError(f"the hub has no tokenizer.json at {self.path}: {str(error).splitlines()[0]}") from error


def from_tiktoken(file: Path) -> tokenizers.Tokenizer:
    """Byte-pair encoding from the ranks of a .tiktoken file: lines of a token in base64 and its rank.

    A token's merge is the pair that the merges before it leave of its bytes.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"line {number} is no token and rank") from error
    if len(ranks) < 256 or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("not every byte is a token")
    splitting, end_of_text = TIKTOKEN.get(file.stem, ("gpt4", len(ranks)))
    names = dict(enumerate(byte_names()))
    written = {token: "".join(names[byte] for byte in token) for token in ranks}
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    vocabulary |= {f"<|unused {rank}|>": rank for rank in range(end_of_text) if rank not in set(ranks.values())}
    vocabulary[END_OF_TEXT] = end_of_text
    merges = [
        (written[first], written[second])
        for token in sorted(ranks, key=ranks.__getitem__)
        if len(token) > 1
        for first, second in [merged_pair(token, ranks)]
    ]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITTINGS[splitting].pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END_OF_TEXT])
    return backend


def merged_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that merge into `token` when all merges of a lower rank are done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], ranks[token]) for i in range(len(parts) - 1)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] >= ranks[token]:
            raise ValueError(f"no merge makes the token {token!r}")
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
