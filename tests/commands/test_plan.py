"""`pretrain plan`, and what `train` takes from it: the micro-batch that fits, and the share of a GPU's peak."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain import cli, config
from pretrain.commands import sizing, train
from pretrain.training.parallel.replicas import DDP
from pretrain.training.parallel.shards import FSDP

GPUS = ["hardware=h200", "model=gpt2_small"]
TINY = [
    "model=gpt_nano",
    "model.n_layer=1",
    "model.n_embd=16",
    "model.n_head=2",
    "model.context_length=16",
    "tokenizer=byte",
    "data=files",
    "data/recipe=none",
    "executor=serial",
    "threads=1",
    "sample.max_tokens=0",
    "trainer.max_steps=2",
    "trainer.batch_tokens=192",
]


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """The exit code, the JSON document, and what was said on stderr."""
    code = cli.main(["plan", *words, "format=json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


def test_a_plan_tells_parameters_memory_flops_hours_tokens_and_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    code, plan, _ = planned(capsys, *GPUS, "trainer.max_tokens=300G", "trainer.max_steps=null", "plan.disk_bytes=10G")
    assert code == 0
    assert plan["parameters"]["total"] == sum(plan["parameters"]["components"].values()) == 124_439_808
    assert plan["precision"] == "bf16"
    moments = {name: sum(parts.values()) for name, parts in plan["memory"]["moments"].items()}
    assert plan["memory"]["peak"] == max(moments.values()) == moments[plan["memory"]["peak_at"]]
    assert plan["memory"]["fits"] is True
    assert plan["flops"] == {"per_token": 854_438_400, "per_step": 854_438_400 * 8192}
    optimal, settings = plan["tokens"]["compute_optimal"], plan["tokens"]["planned"]
    assert optimal["tokens"] == 20 * 124_439_808
    assert settings["tokens"] == 300_000_000_000
    products = 300e9 * 854_438_400 / (0.4 * 989e12) / 3600
    assert products < settings["hours"] < 1.1 * products  # the update comes on top
    assert plan["checkpoints"]["fit"] == 10_000_000_000 // (12 * 124_439_808) == 6


def test_the_largest_micro_batch_fits_and_one_row_more_would_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*GPUS, "hardware.memory_bytes=12G", "trainer.batch_tokens=1M"]
    words[-1] = f"trainer.batch_tokens={64 * 1024}"
    _, plan, _ = planned(capsys, *words)
    largest = plan["micro_batch"]["largest"]
    assert plan["micro_batch"] == {"planned": largest, "largest": largest, "rows": 64}
    assert 1 <= largest < 64
    assert plan["memory"]["fits"] is True
    _, twice, _ = planned(capsys, *words, f"trainer.micro_batch={2 * largest}")
    assert (twice["micro_batch"]["planned"], twice["memory"]["fits"]) == (2 * largest, False)


def test_what_does_not_fit_is_said_with_what_would_help(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hardware=a100_80gb", "model=llama2_7b"]
    assert cli.main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "It does not fit" in said
    assert "parallel=fsdp" in said
    batch = ["trainer.batch_tokens=4194304"]
    _, alone, _ = planned(capsys, *words, *batch)
    assert (alone["micro_batch"]["largest"], alone["memory"]["fits"]) == (None, False)
    _, parted, _ = planned(capsys, *words, *batch, "parallel=fsdp", "plan.ranks=64")
    assert parted["memory"]["fits"] is True
    assert parted["tokens"]["compute_optimal"]["hours"] < alone["tokens"]["compute_optimal"]["hours"] / 60


def test_every_model_that_learns_by_gradient_is_planned_as_tables(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("gpt_nano", "modern", "lstm", "mlp", "encoder_decoder"):
        assert cli.main(["plan", f"model={model}", "hardware=a100_40gb"]) == 0
        out = capsys.readouterr().out
        assert "Largest micro-batch" in out
        assert "compute-optimal" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=bigram"], "counts"),
        (["plan.ranks=3"], "3 processes cannot be shared by parallel=none; try 1"),
        (["update.ema_decay=2"], "update.ema_decay=2"),
        (["parallel=ddp", "plan.ranks=7"], "try trainer.batch_tokens="),
        (["trainer.batch_tokens=1000"], "not a multiple of the sequence length"),
        (["hardware=h300"], "hardware=h300 is not one of"),
        (["plan.memory_share=1.5"], "plan.memory_share=1.5"),
        (["hardware.mfu=0"], "hardware.mfu=0"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = planned(capsys, *words)
    assert (code, said.count("\n")) == (2, 1)
    assert message in said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "texts").mkdir()
    for number in range(20):
        text = f"Document {number} says that {number * number} is the square of {number}. " * 8
        (folder / "texts" / f"{number}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture
def tiny(corpus: Path, tmp_path: Path) -> list[str]:
    """The words of a tiny training, whose run is `run`."""
    return [*TINY, f"data.paths=[{corpus}/texts]", f"data_dir={corpus}/data", f"runs_dir={tmp_path}/runs", "name=run"]


def saved(folder: Path) -> dict[str, Any]:
    [newest] = sorted(folder.glob("checkpoints/step_*"))[-1:]
    state: dict[str, Any] = json.loads((newest / "state.json").read_text("utf-8"))
    return state


def test_the_micro_batch_that_fits_is_chosen_once_and_kept(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny, "trainer.micro_batch=auto", "schedule=constant", "schedule.warmup_steps=0"]
    assert cli.main(["train", *words]) == 0
    assert saved(tmp_path / "runs" / "run")["micro_batch"] == 12  # all rows
    monkeypatch.setattr(sizing, "available_memory", lambda: 1)
    assert cli.main(["train", *words, "trainer.max_steps=3"]) == 0  # a resume chooses nothing anew
    assert (saved(tmp_path / "runs" / "run")["micro_batch"], saved(tmp_path / "runs" / "run")["step"]) == (12, 3)


def test_with_little_memory_fewer_rows_are_computed_at_once(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plan, _ = planned(capsys, *TINY[:5], "model.vocab_size=257", "trainer.batch_tokens=192", "trainer.micro_batch=6")
    needs = plan["memory"]["peak"] - plan["memory"]["moments"]["loss"]["context"]
    monkeypatch.setattr(sizing, "available_memory", lambda: int(needs / sizing.SHARE["cpu"]) + 10)
    assert cli.main(["train", *tiny, "trainer.micro_batch=auto"]) == 0
    assert saved(tmp_path / "runs" / "run")["micro_batch"] == 6
    monkeypatch.setattr(sizing, "available_memory", lambda: 1000)
    assert cli.main(["train", *tiny, "trainer.micro_batch=auto", "name=least"]) == 0
    assert saved(tmp_path / "runs" / "least")["micro_batch"] == 1
    assert "even one row" in capsys.readouterr().err


def test_what_each_process_holds_and_reads_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "model=gpt_nano",
        "model.n_embd=512",
        "model.context_length=16",
        "precision=fp32",
        "trainer.micro_batch=auto",
    ]
    composed = cli._composed("train", [*words, f"trainer.batch_tokens={48 * 16}"])

    def largest(parallel: Any, ranks: int, megabytes: int, local_ranks: int = 1, **more: Any) -> int:
        """Rows of 16 tokens at once, of a batch of 48, on each of `ranks` processes."""
        parallel.ranks, parallel.local_ranks = ranks, local_ranks
        way = f"{type(parallel).__module__}.{type(parallel).__name__}"
        part = {"_target_": way, "timeout_seconds": 1.0, **({"shards": None} if way.endswith("FSDP") else {})}
        settings = config.parse({**composed, "parallel": part} | more, config.TrainConfig)
        monkeypatch.setattr(sizing, "available_memory", lambda: megabytes * 10**6)
        make_model = partial(config.build, settings.model, vocab_size=300)
        return sizing.first_micro_batch(settings, "fp32", torch.device("cpu"), make_model, parallel)

    ddp, fsdp = DDP(timeout_seconds=1.0), FSDP(timeout_seconds=1.0)
    assert largest(ddp, 4, 10**6) == 12  # all rows of one rank
    enough = next(size for size in range(100, 4000, 20) if largest(ddp, 2, size) == 24)
    assert largest(ddp, 2, enough, local_ranks=2) < 24  # which share the machine's memory
    assert largest(fsdp, 2, enough - 60) == 24 > largest(ddp, 2, enough - 60)  # half of the optimizer's state
    average = {"update": composed["update"] | {"ema_decay": 0.9}}
    assert largest(ddp, 2, enough, **average) < 24


def test_metrics_have_mfu_where_the_peak_is_known_only(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["train", *tiny]) == 0
    monkeypatch.setattr(train, "tokens_at_peak", lambda *_: 1e6)
    assert cli.main(["train", *tiny, "name=known"]) == 0

    def rows(name: str) -> list[dict[str, Any]]:
        lines = (tmp_path / "runs" / name / "metrics.jsonl").read_text("utf-8").splitlines()
        return [row for row in map(json.loads, lines) if "tokens_per_second" in row]

    assert len(rows("run")) == len(rows("known")) == 2
    assert not any("mfu" in row for row in rows("run"))
    for row in rows("known"):
        assert row["mfu"] == pytest.approx(row["tokens_per_second"] / 1e6, abs=1e-4)


def test_a_model_that_counts_needs_no_micro_batch(tiny: list[str], tmp_path: Path) -> None:
    words = [word for word in tiny if not word.startswith("model")]
    assert cli.main(["train", *words, "model=bigram", "trainer.micro_batch=auto", "trainer.sequence_length=16"]) == 0
    assert (tmp_path / "runs" / "run" / "result.json").exists()
