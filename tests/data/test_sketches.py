"""What stages that see the whole corpus write in between, and what it takes to make it."""

import random
import tracemalloc

import pyarrow as pa
import pytest

from pretrain.data.dedup.near import NearDuplicates
from pretrain.data.dedup.passages import RepeatedPassages
from pretrain.data.stages import TEXT_AT_ONCE
from pretrain.tokenizers import spans

NEAR = NearDuplicates(similarity=0.75, bands=24, rows=6, shingle=5)
LINES = RepeatedPassages(unit="line", window=1, min_bytes=60, max_documents=10, min_words=20)


@pytest.mark.parametrize("stage", [NEAR, LINES], ids=["near_duplicates", "lines"])
def test_a_row_group_is_sketched_in_a_few_times_its_size(stage):
    """Arrays of all its characters, 8 bytes each and several at the same time, would take sixty times its size."""
    draw = random.Random(1)
    lines = [" ".join(f"w{draw.randrange(10_000)}" for _ in range(60)) + "\n" for _ in range(500)]
    texts = ["".join(draw.choices(lines, k=13)) for _ in range(TEXT_AT_ONCE // 4200)]
    size = sum(map(len, texts))
    documents = pa.table({"text": texts})
    spans._powers.cache_clear()  # they count too
    tracemalloc.start()
    try:
        stage.sketch(documents)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * size
