"""Leaks: training documents that are near duplicates of a validation text which the user named.

The corpus's own near duplicates are gone before it is parted, but texts at data.validation_paths come from elsewhere.
They are compared with the corpus by the sketches of `dedup/near.py`; what is alike is dropped from training, for the
validation texts stay as they are.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pretrain.data.dedup.near import NearDuplicates, crowded, distinct_pairs
from pretrain.data.documents import LINK, Details, StageOutput, without_repeats
from pretrain.data.manifests import key_of
from pretrain.data.running import run_stage
from pretrain.data.stages import Built, Workspace


class Leaks:
    """Drops every document that is a near duplicate of one of the first `held_out` documents, which all stay.

    Args:
        near: what near duplicates are.
        held_out: how many documents, the first of the corpus, are validation texts.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = NearDuplicates.libraries
    transitive: ClassVar[bool] = False

    def __init__(self, near: NearDuplicates, held_out: int) -> None:
        self.near = near
        self.held_out = held_out

    def sketch(self, documents: pa.Table) -> tuple[pa.Table, pa.Array]:
        """The keys and shingles of near duplicates."""
        return self.near.sketch(documents)

    def link(self, keys: pa.Table, details: Details) -> pa.Table:
        """Each document with the first validation text that shares a key and is alike, with the similarity.

        Unlike in `NearDuplicates.link`, no validation text stands for another one that is alike: both stay, so a
        document must be compared with both.
        """
        key, document, size = (keys[name].to_numpy() for name in ("key", "document", "size"))
        crowd = crowded(key)
        key, document, size = key[crowd], document[crowd], size[crowd].astype(np.int64)
        leads = np.append(True, key[1:] != key[:-1])[: len(key)]
        bucket = np.cumsum(leads) - 1
        first = np.flatnonzero(leads)  # validation texts come first in the corpus, and so in each bucket
        texts = np.bincount(bucket[document < self.held_out], minlength=len(first))
        left = np.flatnonzero(document >= self.held_out)
        found = [LINK.empty_table()]
        for number in range(int(texts.max(initial=0))):
            left = left[texts[bucket[left]] > number]
            if not len(left):
                break
            text = first[bucket[left]] + number
            pairs = np.stack([document[text], document[left]], axis=1)
            pairs, sizes, places = distinct_pairs(pairs, np.stack([size[text], size[left]], axis=1))
            values = self.near.similarities(pairs, sizes, details)
            alike = values >= self.near.similarity
            found.append(pa.table([*pairs[alike].T, values[alike]], schema=LINK))
            left = left[~alike[places]]
        return pa.concat_tables(found)

    def apply(self, documents: pa.Table, found: pa.Table) -> StageOutput:
        """Drops what is linked; the survivor is the validation text."""
        return without_repeats(documents, found, "near_duplicate_of_validation", self.near.similarity)


def drop_leaks(
    settings: Mapping[str, Any], near: NearDuplicates, documents: Built, validation: Built, at: Workspace
) -> Built:
    """`documents` without the near duplicates of `validation`.

    Args:
        settings: the part of the config that `near` is made of.
    """
    shards = [*_with_paths(validation), *_with_paths(documents)]
    key = key_of(settings={}, code=Leaks.version, inputs=[validation.key, documents.key])
    both = Built("leaks", key, Path(), shards, 0.0, 0)
    leaks = Leaks(near, validation.total("documents_out"))
    built = run_stage("leaks", dict(settings), leaks, both, at)
    return dataclasses.replace(built, shards=built.shards[len(validation.shards) :])


def _with_paths(built: Built) -> list[Any]:
    """The records of shards, with the whole path of each."""
    return [dataclasses.replace(shard, file=str(file)) for shard, file in zip(built.shards, built.files(), strict=True)]
