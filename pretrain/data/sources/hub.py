"""Corpora of the Hugging Face Hub, and local copies of them, streamed by the library `datasets`."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import fsspec
import pyarrow as pa
import xxhash
from annotated_types import Ge

from pretrain.data.sources.reading import HEAD, Limits, Record, Refused, SourceFile, Unreadable, decoded, mended
from pretrain.data.sources.streams import DAMAGE
from pretrain.errors import DataError, UsageError

ANSWER_SECONDS = 5  # that the hub may take to say which commit a revision is
SHARD_BYTES = 100_000_000  # a guess, where nothing is known of a shard
MESSAGE = 300  # characters of another library's message that are passed on
COMMIT = "commit "  # begins the fingerprint of what a commit of the hub holds
DOCUMENT_BYTES = 4_000  # a guess, where only the first documents are read


class HuggingFace:
    """A dataset of the hub, a row a document, read shard by shard without being downloaded first.

    Only repositories of data files (Parquet, JSON lines, CSV, text ...) can be read: `datasets` runs no loading
    scripts since version 4. Many of those that have one also have Parquet files under revision=refs/convert/parquet.

    Args:
        repository: its name, such as roneneldan/TinyStories, or the folder of a local copy.
        subset: the configuration, where it has several.
        split: the part of it.
        revision: branch, tag or commit; None: the main branch. What is read is pinned to the commit that it is now.
        folder: the folder of the repository that is read; None: all of it.
        text_field: the column that holds the text.
        id_field: the column that names the document; None: its file and row do.
        max_documents: only so many are read, from the beginning and by one worker; None: all.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("datasets",)

    def __init__(
        self,
        *,
        repository: str,
        subset: str | None,
        split: str,
        revision: str | None,
        folder: str | None,
        text_field: str,
        id_field: str | None,
        max_documents: Annotated[int, Ge(1)] | None,
    ) -> None:
        self.repository = repository
        self.subset = subset
        self.split = split
        self.revision = revision
        self.folder = folder
        self.text_field = text_field
        self.id_field = id_field
        self.max_documents = max_documents

    def files(self) -> list[SourceFile]:
        """The shards, of which each is one of the repository's data files as a rule.

        A shard's size is its data file's; where a shard is no file, a share of the size that the dataset's card tells,
        or else a guess. Its fingerprint is the commit and its number; a local file has none, so that it is hashed.

        Raises:
            UsageError: the dataset cannot be reached, or has no such subset, split or column.
        """
        commit = self._commit()
        builder = self._builder(commit)
        count = self._dataset(builder).num_shards
        kept_at = [str(path) for path in (builder.config.data_files or {}).get(self.split, [])]
        stored = _stored_bytes(kept_at) if len(kept_at) == count else []
        prefix = f"{self.subset or 'default'}/{self.split}"
        content = f"{COMMIT}{commit}" if commit else _local_content(builder, kept_at)
        if self.max_documents:
            size = self.max_documents * DOCUMENT_BYTES
            size = min(size, sum(stored)) if stored else size
            name = f"{prefix}/first-{self.max_documents}"
            return [SourceFile(name, self.repository, size, f"{content}/first-{self.max_documents}")]
        named = [f"{prefix}/{shard:05}-of-{count:05}" for shard in range(count)]
        if stored and commit is None:
            return [SourceFile(*shard) for shard in zip(named, kept_at, stored, strict=True)]
        sizes = stored or [_told_bytes(builder, self.split) // count or SHARD_BYTES] * count
        return [
            SourceFile(name, self.repository, size, f"{content}/{shard}")
            for shard, (name, size) in enumerate(zip(named, sizes, strict=True))
        ]

    def read(self, file: SourceFile, limits: Limits) -> Iterator[Record | Refused]:
        """Raises:
        Unreadable: the data file is damaged; what was parsed before the fault was given.
        DataError: the connection broke.
        """
        content = (file.fingerprint or "").partition("/")[0]
        commit = content.removeprefix(COMMIT) if content.startswith(COMMIT) else None
        dataset = self._dataset(self._builder(commit))
        if self.max_documents:
            dataset = dataset.take(self.max_documents)
        else:
            shard, _, count = file.name.rpartition("/")[2].partition("-of-")
            if int(count) != dataset.num_shards:
                raise DataError(f"{self.repository} changed while it was read; run the same command again")
            dataset = dataset.shard(int(count), int(shard))
        rows = dataset.with_format("arrow").iter(batch_size=1)  # larger ones would lose rows before a fault
        position = 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except _http_errors(ConnectionError, TimeoutError) as error:
                raise DataError(f"{self.repository}: the connection broke, {_one_line(error)}; try again") from error
            except (FileNotFoundError, PermissionError):  # a local file that changed meanwhile
                raise
            except (*DAMAGE, EOFError, TypeError) as error:  # TypeError: a column of another type than before
                reason = f"the data is damaged after {position:,} rows: {_one_line(error)}"
                raise Unreadable("damaged", reason) from error
            yield self._document(position, row, f"{file.name}:{position}")
            position += 1

    def _document(self, position: int, row: pa.Table, name: str) -> Record | Refused:
        raw = _text_bytes(row, self.text_field)
        if raw is None:
            reason = f"no text in the column {self.text_field!r} of {', '.join(row.column_names)}"
            return Refused(position, "no_text", reason, head=str(row)[:HEAD])
        text, replaced = decoded(raw)
        others = {column: _value(row, column) for column in row.column_names if column != self.text_field}
        own = others.pop(self.id_field, None) if self.id_field else None
        name = name if own is None else mended(str(own))[0]
        return Record(position, name, text, json.dumps(others, default=_told), replaced)

    def _is_local(self) -> bool:
        return Path(self.repository).expanduser().is_dir()

    def _commit(self) -> str | None:
        """The commit that `revision` is now; None: a local folder, or what lies in the cache while offline.

        Raises:
            UsageError: the hub does not answer, or has no such repository, and nothing is cached.
        """
        if self._is_local():
            return None
        if self.repository.startswith(("/", ".", "~")) or self.repository.count("/") > 1:
            raise UsageError(f"the dataset's folder {self.repository} does not exist")
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(self.repository, revision=self.revision, timeout=ANSWER_SECONDS).sha
        except _http_errors(OSError, ValueError) as error:
            as_cached = self.revision is None and self.folder is None  # the cache does not say which it holds
            if as_cached and _cached(self.repository, self.subset) is not None:
                return None
            raise UsageError(_unreachable(self.repository, self.revision, error)) from error
        return str(commit)

    def _builder(self, commit: str | None) -> Any:
        if commit is None and not self._is_local():
            return _cached(self.repository, self.subset)
        return _builder(self.repository, self.subset, self.folder, commit)

    def _dataset(self, builder: Any) -> Any:
        """The split as a datasets.IterableDataset, from which nothing is read yet."""
        try:
            dataset = builder.as_streaming_dataset(split=self.split)
        except ValueError as error:
            raise UsageError(f"the dataset {self.repository}: {_one_line(error)}; choose with split=") from error
        columns = dataset.column_names
        if columns is not None and self.text_field not in columns:
            raise UsageError(
                f"the dataset {self.repository} has no column {self.text_field!r}; "
                f"set text_field= to one of {', '.join(columns)}"
            )
        return dataset


@functools.lru_cache(maxsize=4)
def _builder(repository: str, subset: str | None, folder: str | None, commit: str | None) -> Any:
    """What `datasets` found in the repository; once a process, as it takes some requests.

    Raises:
        UsageError: nothing that can be loaded.
    """
    import datasets

    datasets.disable_progress_bars()
    path = repository if commit else str(Path(repository).expanduser())
    try:
        return datasets.load_dataset_builder(path, subset, data_dir=folder, revision=commit)
    except RuntimeError as error:  # a loading script
        reason = f"{_one_line(error)}; its data may lie under revision=refs/convert/parquet"
        raise UsageError(f"the dataset {repository} cannot be loaded: {reason}") from error
    except ValueError as error:  # no such subset, or several and none chosen
        reason = f"{_one_line(error)}; choose with subset="
        raise UsageError(f"the dataset {repository} cannot be loaded: {reason}") from error
    except OSError as error:
        raise UsageError(_unreachable(repository, commit, error)) from error


def _cached(repository: str, subset: str | None) -> Any:
    """What an earlier `datasets.load_dataset` of the repository left in its cache, or None."""
    from datasets.packaged_modules.cache.cache import Cache

    try:
        return Cache(
            repo_id=repository,
            dataset_name=repository.rpartition("/")[2],
            config_name=subset,
            version="auto",
            hash="auto",
        )
    except ValueError:
        return None


def _unreachable(repository: str, revision: str | None, error: Exception) -> str:
    """Why a dataset cannot be had, and what to do about it."""
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"the dataset {repository}"
    page = f"https://huggingface.co/datasets/{repository}"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision}; see {page}"
    if isinstance(error, GatedRepoError) or "gated" in str(error):
        return f"{name} is gated: ask for access at {page}, then set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError | DatasetNotFoundError):
        return f"{name} does not exist on the Hugging Face Hub, or needs access: see {page} and set HF_TOKEN"
    if isinstance(error, ValueError) or Path(repository).expanduser().is_dir():
        return f"{name} cannot be loaded: {_one_line(error)}"
    reason = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else _one_line(error)
    return (
        f"{name} cannot be reached ({reason}) and is not in the cache {datasets.config.HF_DATASETS_CACHE}; "
        "go online, set HF_HOME to a folder with a cache, or set repository= to the folder of a copy"
    )


def _http_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """`others`, and the base of the errors of the hub's HTTP library, which is another one in each of its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = [base for base in HfHubHTTPError.__bases__ if base is not OSError]
    return (*others, *cast(list[type[Exception]], bases))


def _local_content(builder: Any, paths: list[str]) -> str:
    """What changes when the files of a local folder, or the cache, do."""
    stats = [Path(path).stat() for path in paths if Path(path).is_file()]
    told = [builder.hash, *((stat.st_size, stat.st_mtime_ns) for stat in stats)]
    return xxhash.xxh3_128_hexdigest(repr(told).encode())


def _stored_bytes(paths: list[str]) -> list[int]:
    """The sizes of data files at local paths or addresses, with one request a folder; in an archive, the archive's."""
    sizes = []
    folders: dict[str, dict[str, Any]] = {}
    for path in paths:
        system, inner = fsspec.core.url_to_fs(path.rpartition("::")[2])
        folder, _, name = inner.rpartition("/")
        if folder not in folders:
            folders[folder] = {entry["name"].rpartition("/")[2]: entry for entry in system.ls(folder, detail=True)}
        sizes.append(int((folders[folder].get(name) or system.info(inner))["size"]))
    return sizes


def _told_bytes(builder: Any, split: str) -> int:
    """The size of a split as the dataset's card tells it, in bytes; 0: it does not."""
    splits = builder.info.splits or {}
    return int(splits[split].num_bytes or 0) if split in splits else 0


def _text_bytes(row: pa.Table, column: str) -> bytes | None:
    """The text of a row as the bytes that are stored, which need not be UTF-8; None: no text."""
    if column not in row.column_names:
        return None
    value = row.column(column)
    if not (pa.types.is_string(value.type) or pa.types.is_large_string(value.type)):
        return None
    text: bytes | None = value.cast(pa.large_binary())[0].as_py()
    return text or None


def _value(row: pa.Table, column: str) -> Any:
    """A cell as Python has it, or what is wrong with it: a cell of metadata costs no document."""
    try:
        return row.column(column)[0].as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # broken UTF-8, dates before year 1
        return f"unreadable: {_one_line(error)}"


def _told(value: object) -> str:
    """What JSON does not know, for people; of bytes only their number."""
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _one_line(error: Exception) -> str:
    """What an error of a library says, without its advice on how to call it."""
    said = " ".join(str(error).split()).partition(" Example of usage")[0]
    return said[:MESSAGE] or type(error).__name__
