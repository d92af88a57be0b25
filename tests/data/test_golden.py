"""What every stage makes of a small corpus, as a digest: it changes only with the stage's version."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import xxhash

from pretrain import cli, config
from pretrain.data import collect, splits
from pretrain.data.collect import collect_sources
from pretrain.data.executors import Serial
from pretrain.data.running import run_stage
from pretrain.data.sources.files import Files
from pretrain.data.sources.reading import Limits
from pretrain.data.stages import Built, Silent, Workspace

GOLDEN = Path(__file__).with_name("golden.json")
RECIPES = sorted(path.stem for path in (config.configs_dir() / "data" / "recipe").glob("*.yaml"))
LIMITS = Limits(document_bytes=5000, expansion=200.0, replaced=0.01)


def write_corpus(folder: Path, texts: list[str]) -> None:
    """Texts in three languages, and of each fault some."""
    folder.mkdir()
    for number, text in enumerate(texts[::5]):
        (folder / f"{number}.md").write_text(text, "utf-8")
    prose = " ".join(texts[:10])
    more = [
        prose,
        prose.replace("cat", "dog").replace("river", "stream"),
        prose.upper(),
        f"{prose}\n\n{prose}\n\n{prose}",
        "the same line\n" * 20,
        "again and again " * 40,
        "e\u0301 \u30ab\u3099 \ufb01 \x00\x07\r\nＡ１",
        " \n\t\n",
        "",
        "Write to jane.doe@mail.org or call +1 (202) 555-0143; the server is 192.0.2.7, the version 2.3.4.5.",
        *texts[3:6],
    ]
    lines = [json.dumps({"text": text, "id": f"own {n}", "n": n}) for n, text in enumerate([*texts, *more])]
    lines += ['{"text": nu', '{"text": null}', "[]", json.dumps({"text": "x" * 6000}), r'{"text": "\ud800"}']
    (folder / "a.jsonl").write_text("\n".join(lines), "utf-8")
    (folder / "b.csv").write_text(f'text,n\n"{texts[0]}\n{texts[1]}",1\nalone\n', "utf-8")


def digest(built: Built) -> str:
    """Of all rows, kept and dropped, whatever the bytes of the files."""
    tables = [pq.read_table(file) for file in [*built.files(), *built.dropped()]]
    rows = [[*table.column_names, *table.to_pylist()] for table in tables]
    return xxhash.xxh3_128_hexdigest(json.dumps([rows, built.summary()["counters"]], sort_keys=True).encode())


@pytest.fixture
def digests(tiny_corpus, tmp_path) -> dict[str, str]:
    """Of collect, of every stage of every recipe, each on the collected corpus, and of the two passes of the split."""
    at = Workspace(tmp_path / "data", Serial(), Silent())
    write_corpus(tmp_path / "corpus", tiny_corpus)
    source = Files(paths=[str(tmp_path / "corpus")], text_field="text", unit="file", extractor="resiliparse")
    collected = collect_sources({"files": source}, {}, LIMITS, 4000, at)
    assert len(collected.shards) > 2
    found = {f"collect {collect.VERSION} of files {Files.version}": digest(collected)}
    for recipe in RECIPES:
        settings = config.parse(
            cli._composed("data", ["data=files", "data.paths=[corpus]", f"data/recipe={recipe}"]), config.DataConfig
        )
        for name, part in settings.data.stages.items():
            stage = config.build(part)
            built = run_stage(name, dict(part), stage, collected, at)
            found[f"{recipe}: {name} {stage.version}"] = digest(built)
    placed = splits.place_documents(collected, seed=1, workspace=at)
    where = splits.ranges(placed, 0.3)
    found[f"shuffle {splits.VERSION}"] = digest(placed)
    for side in ("train", "validation"):
        built = splits.gather(placed, side, where, shard_bytes=4000, workspace=at)
        found[f"{side} {splits.VERSION}"] = digest(built)
    return found


def test_the_output_of_a_stage_changes_only_with_its_version(digests):
    golden = json.loads(GOLDEN.read_text("utf-8"))
    changed = [name for name, value in digests.items() if golden.get(name, value) != value]
    assert not changed, f"the output changed of {changed}: raise `version` there, then note the new digests"
    unknown = {name: value for name, value in digests.items() if name not in golden}
    assert not unknown, f"note these digests in {GOLDEN}: {json.dumps(unknown, indent=1)}"
    gone = sorted(set(golden) - set(digests))
    assert not gone, f"remove from {GOLDEN} what is no more: {gone}"
