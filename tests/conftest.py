"""What several test files share: a tiny corpus, a tokenizer trained on it, shards of documents and of tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pretrain.data.documents import DOCUMENT
from pretrain.data.executors import Serial
from pretrain.data.manifests import checksum, key_of
from pretrain.data.shards import TokenShard, TokenStream
from pretrain.data.stages import Batch, Built, Silent, Workspace, build, finished, text_bytes
from pretrain.tokenizers.bpe import BytePairEncoding

ShardDocuments = Callable[[Sequence[Sequence[str]], Path], Built]
MakeStream = Callable[..., TokenStream]

ENGLISH = [
    "The cat sat on the mat, and the dog sat by the door.",
    "A river runs through the valley; the valley is green in spring.",
    "She sells sea shells by the sea shore, and he buys them.",
    "It was a bright cold day in April, and the clocks were striking.",
    "The baker bakes bread before the sun is up, every day of the year.",
    "Rain fell on the roof all night, and in the morning the garden shone.",
    "Nobody knows who built the old bridge, yet everybody crosses it.",
    "The train leaves at nine; be there a quarter of an hour before.",
    "An apple a day keeps the doctor away, or so the apple sellers say.",
    "Numbers such as 3.14159 and 2,718 stand in many texts, 100% of the time.",
]
JAPANESE = [
    "吾輩は猫である。名前はまだ無い。",
    "どこで生れたかとんと見当がつかぬ。",
    "春はあけぼの。やうやう白くなりゆく山ぎは、少し明かりて。",
    "古池や蛙飛び込む水の音",
    "祇園精舎の鐘の声、諸行無常の響きあり。",
    "東京の天気は晴れ、気温は２５度です。",
    "メロスは激怒した。必ず、かの邪智暴虐の王を除かなければならぬと決意した。",
    "国境の長いトンネルを抜けると雪国であった。",
    "ｶﾀｶﾅとカタカナと、ひらがな。",
    "山路を登りながら、こう考えた。",
]
CODE = [
    "def add(a, b):\n    return a + b\n",
    "for i in range(10):\n\tprint(i, i ** 2)\n",
    "import json\n\nwith open('a.json') as file:\n    rows = json.load(file)\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n",
    "while queue:\n    node = queue.pop(0)\n    queue += node.children\n",
    "if x is None and not done:\n    raise ValueError(f'{x!r} is wrong')\n",
    "SELECT name, COUNT(*) FROM users GROUP BY name;\n",
    'fn main() {\n    println!("hello");\n}\n',
    "int main(void) { return 0; } /* C */\n",
    "const twice = (f) => (x) => f(f(x));\n",
]


@pytest.fixture(scope="session")
def tiny_corpus() -> list[str]:
    """Thirty short documents: English, Japanese and code."""
    return [*ENGLISH, *JAPANESE, *CODE]


@pytest.fixture(scope="session")
def tokenizer_file(tiny_corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer.json of a byte-pair encoding with a few merges."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    BytePairEncoding(vocab_size=320, splitting="gpt2", sample_bytes=10**6).train(tiny_corpus).save(path)
    return path


@pytest.fixture(scope="session")
def shard_documents() -> ShardDocuments:
    """A function that writes lists of texts, a list a shard, as a finished stage; ids count through all shards."""

    def write(shards: Sequence[Sequence[str]], data_dir: Path) -> Built:
        starts = np.cumsum([0, *(len(texts) for texts in shards)]).tolist()
        tasks = [(0, (start, list(texts))) for start, texts in zip(starts[:-1], shards, strict=True)]
        key = key_of(settings={"shards": [list(texts) for texts in shards]}, code=1)
        workspace = Workspace(data_dir, Serial(), Silent())
        return finished("corpus", key, workspace) or build("corpus", key, workspace, tasks, _documents)

    return write


def _documents(task: tuple[int, list[str]]) -> Iterator[Batch]:
    start, texts = task
    names = [f"{start + place:04d}" for place in range(len(texts))]
    rows: list[dict[str, Any]] = [
        {"id": name, "text": text, "source": "test", "source_id": f"record {name}", "meta": "{}"}
        for name, text in zip(names, texts, strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=DOCUMENT)
    yield Batch(table, None, len(texts), text_bytes(table), {})


@pytest.fixture(scope="session")
def make_stream(tmp_path_factory: pytest.TempPathFactory) -> MakeStream:
    """A function that writes tokens as a stream of shards, cut at `cuts`."""

    def make(tokens: Sequence[int], cuts: Sequence[int] = ()) -> TokenStream:
        folder = tmp_path_factory.mktemp("stream")
        shards = []
        for start, end in pairwise([0, *cuts, len(tokens)]):
            path = folder / f"train-{len(shards):05d}.bin"
            np.array(tokens[start:end], "<u2").tofile(path)
            shards.append(asdict(TokenShard(path.name, checksum(path), end - start, 1, 1, 1, 1, "test")))
        return TokenStream(folder, "train", {"dtype": "uint16", "splits": {"train": shards}})

    return make
