"""The page of a run and the page that compares runs: what they say, and how they look in a real browser."""

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.reporting.report import write_report
from pretrain.reporting.run_record import Attention, Insides, RunRecord, State, _evenly, read_record

STEPS = 300
WIDTHS = (390, 1280)
SETTINGS = {
    "name": "a",
    "model": {"_target_": "pretrain.models.gpt.GPT", "n_layer": 2, "n_embd": 64},
    "optimizer": {"_target_": "pretrain.training.optimizers.adamw.AdamW", "lr": 3e-3},
    "update": {"_target_": "pretrain.training.updates.GradientUpdate", "spike_threshold": 8.0},
    "trainer": {"max_steps": 400, "eval_every": 60},
    "data": {"sources": {"files": {"paths": ["/a/very/long/path/" + "that/never/ends/" * 9]}}},
}
STAGES = [
    {"name": "collect", "documents_in": 90, "documents_out": 80, "bytes_in": 9000, "bytes_out": 8000},
    {"name": "normalise", "documents_in": 80, "documents_out": 60, "bytes_in": 8000, "bytes_out": 5000},
]
HOSTILE = '</pre><script>alert(1)</script>\x1b[2J "&amp; 吾輩は猫である ' + "x" * 300


def metrics(steps: int = STEPS) -> list[dict[str, Any]]:
    """Rows with all that can happen: a loss that is not finite, a skipped step, a spike."""
    rows: list[dict[str, Any]] = []
    skipped = 0
    for step in range(1, steps + 1):
        at = {"step": step, "tokens": 1000 * step, "seconds": step / 10}
        skipped += step == 100
        loss = None if 100 <= step < 130 else 4 + 5 * math.exp(-step / 60) + 0.2 * math.sin(7 * step)
        rows.append(
            at
            | {"train/loss": loss, "lr": 3e-3 * min(1, step / 50), "grad_norm": 1 + 0.5 * math.sin(step)}
            | {"tokens_per_second": 10_000.0 + step, "memory_bytes": 5e8, "skipped_steps": skipped}
            | {"spike": 12.0 if step == 200 else 0.1}
        )
        if step % 60 == 0:
            value = 4.1 + 5 * math.exp(-step / 60)
            rows.append(at | {"val/loss": value, "val/perplexity": math.exp(value), "val/bits_per_byte": value / 2.5})
    return rows


def result_of(folder: Path, steps: int) -> dict[str, Any]:
    return {
        "run": str(folder),
        "steps": steps,
        "tokens": 1000 * steps,
        "seconds": steps / 10,
        "parameters": 123_456,
        "train": {"loss": 4.05, "perplexity": 57.4},
        "validation": {"loss": 4.1, "perplexity": 60.3, "bits_per_byte": 1.64},
        "references": {},
    }


def make_run(folder: Path, rows: list[dict[str, Any]], tokenizer: str = "t") -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "built").mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shard = {"documents": 3, "bytes": 900, "characters": 900, "words": 99, "tokens": 300}
    manifest = {"tokenizer": tokenizer, "vocab_size": 4096, "folder": str(folder / "built")}
    manifest |= {"splits": {"train": [shard, shard], "validation": [shard]}}
    references = {"uniform": 8.32, "unigram": 6.6, "bigram": 4.46, "best_ngram": 4.36, "best_ngram_order": 5}
    for name, content in (
        ("data_manifest.json", manifest),
        ("references.json", references),
        ("environment.json", {"python": "3.11", "versions": {"torch": "2.13"}}),
        ("built/report.json", {"stages": STAGES}),
    ):
        (folder / name).write_text(json.dumps(content))
    for step in range(60, 301, 20):
        (folder / "samples" / f"step_{step:08d}.txt").write_text(f"sample {step} {HOSTILE}")
    return folder


def insides(layers: int = 2) -> Insides:
    weights = np.tril(np.ones((20, 20))) / np.arange(1, 21)[:, None]
    heads = [{"layer": layer, "head": head, "weights": weights} for layer in range(layers) for head in range(2)]
    tokens = ["end of text", "␣吾輩", "<b>", *(f"␣token{i}" for i in range(17))]
    return Insides({"embedding": 100_000, "feed_forward": 23_456, "head": 0}, Attention(layers, tokens, heads))


def record(folder: Path, state: State = "finished", look: Insides | None = None) -> RunRecord:
    done = result_of(folder, STEPS) if state == "finished" else None
    return read_record(folder, SETTINGS | {"name": folder.name}, state, done, look)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by what they are about, with as many charts as they must have."""
    home = tmp_path_factory.mktemp("pages")
    whole = make_run(home / "whole-<b>-with-a-name-as-long-as-sweeps-make-them,optimizer.lr=0.003", metrics())
    other = make_run(home / "other", metrics(200))
    strange = make_run(home / "strange", metrics(100), tokenizer="another")
    single = make_run(home / "single", [{"step": 1, "tokens": 300, "seconds": 0.1, "train/loss": 3.0, "lr": None}])
    empty = make_run(home / "empty", [])
    full = record(whole, look=insides())
    written = {
        "whole": [full],
        "running": [record(other, "running")],
        "single": [record(single, "stopped", Insides({"1-grams": 5, "2-grams": 9}, None))],
        "empty": [record(empty, "stopped")],
        "two": [full, record(other, "running")],
        "counted": [record(single, "stopped"), record(empty, "stopped")],
        "eight": [full, *(record(make_run(home / f"run{i}", metrics(100 + 20 * i))) for i in range(7))],
        "tokenizers": [full, record(strange), record(single, "stopped")],
    }
    return {name: write_report(records, home / f"{name}.html") for name, records in written.items()}


CHARTS = {"whole": 5, "running": 5, "single": 0, "empty": 0, "two": 8, "eight": 8, "tokenizers": 6, "counted": 0}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CHARTS)
def test_a_browser_shows_every_plot_without_complaint_and_nothing_reaches_beyond_the_sides(
    name: str, width: int, pages: dict[str, Path], browser: Any, overflowing: Callable[[], list[str]]
) -> None:
    browser.visit(pages[name], width)
    assert browser.complaints == []
    assert browser.requests == [pages[name].absolute().as_uri()]  # itself, and nothing else
    assert overflowing() == []
    sizes = browser.value(
        """[...document.querySelectorAll('svg.curves')].map(svg => {
          const box = svg.getBoundingClientRect(), lines = [...svg.querySelectorAll('path.curve')];
          return [box.width, box.height, lines.length && Math.max(...lines.map(line => line.getTotalLength()))];
        })"""
    )
    assert len(sizes) == CHARTS[name]
    assert all(wide > 200 and high > 100 and length > 50 for wide, high, length in sizes)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["whole", "eight"])
def test_letters_and_curves_stand_out_from_the_ground_in_light_and_dark(
    name: str, dark: bool, pages: dict[str, Path], browser: Any
) -> None:
    browser.visit(pages[name], 1280)
    browser.darken(dark)
    found = browser.value(
        """(() => {
          const colours = (select, what) =>
            [...new Set([...document.querySelectorAll(select)].map(part => getComputedStyle(part)[what]))];
          return {ground: colours('.chart', 'backgroundColor'), curves: colours('path.curve', 'stroke'),
            letters: [...colours('.chart text', 'fill'), ...colours('h1, p, td, pre, .legend', 'color')]};
        })()"""
    )
    [ground] = map(luminance, found["ground"])
    assert (ground < 0.1) == dark
    assert len(found["curves"]) == (2 if name == "whole" else 6)
    for colours, least in ((found["letters"], 4.5), (found["curves"], 3.0)):  # WCAG's contrasts
        for colour in colours:
            bright, dim = sorted((ground, luminance(colour)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, colour


def luminance(colour: str) -> float:
    """Relative luminance of an rgb() colour, from 0 to 1 (https://www.w3.org/TR/WCAG21/#dfn-relative-luminance)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["whole", "running", "two", "eight"])
def test_no_letters_of_a_chart_lie_on_others(name: str, width: int, pages: dict[str, Path], browser: Any) -> None:
    browser.visit(pages[name], width)
    overlaps = browser.value(
        """[...document.querySelectorAll('svg.curves')].flatMap(svg => {
          const texts = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
          return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
            p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3
          ).map(([b]) => a + ' / ' + b));
        })"""
    )
    assert overlaps == []


def test_letters_are_as_large_on_a_phone_as_on_a_desk(pages: dict[str, Path], browser: Any) -> None:
    heights = []
    for width in WIDTHS:
        browser.visit(pages["whole"], width)
        script = "document.querySelector('svg.curves text').getBoundingClientRect().height"
        heights.append(round(browser.value(script)))
    assert heights[0] == heights[1] >= 12


def test_a_value_that_is_not_finite_leaves_a_gap(pages: dict[str, Path]) -> None:
    found = re.findall(r'<path class="curve c0"[^>]* d="([^"]+)"', pages["whole"].read_text("utf-8"))
    loss = found[0]
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", loss)]
    assert loss.count("M") == 2
    assert not any(333.4 < x < 429.9 for x in places)  # steps 100 to 129 of 300, on 1,000 units
    assert any(x <= 333.4 for x in places)
    assert any(x >= 433 for x in places)


def test_a_page_says_what_happened_and_escapes_what_it_did_not_write(pages: dict[str, Path]) -> None:
    text = pages["whole"].read_text("utf-8")
    assert "<script" not in text
    assert "\x1b" not in text
    assert "1 step skipped" in text
    assert "stood out: 200." in text
    assert text.count('class="mark"') == 4  # both in the chart of the loss and in that of the gradient
    for figure in ("4.1000", "60.30", "1.6400", "123k", "best n-gram, order 5", "吾輩は猫である", "2.13", "normalise"):
        assert figure in text
    shown = [int(step) for step in re.findall(r"<h3>Step ([\d,]+)", text)]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1], len(shown)) == (60, 300, 8)


def test_runs_without_an_end_a_curve_or_a_step_say_so(pages: dict[str, Path]) -> None:
    texts = {name: path.read_text("utf-8") for name, path in pages.items()}
    assert "It was at step 200 of at most 400 when this page was written" in texts["running"]
    assert "learned everything in one step" in texts["single"]
    assert "has not made its first step" in texts["empty"]
    assert "Not finished: other" in texts["two"]
    assert "None of these runs has a curve" in texts["counted"]
    assert "<h2>Training</h2>" not in texts["counted"]


def test_losses_of_different_tokenizers_are_not_put_on_one_axis(pages: dict[str, Path]) -> None:
    text = pages["tokenizers"].read_text("utf-8")
    assert "tokenizers differ" in text
    assert "Bits per byte by tokens" in text
    assert "Training loss by" not in text


def test_only_settings_that_differ_are_compared(tmp_path: Path) -> None:
    records = [
        read_record(
            make_run(tmp_path / name, metrics(20)),
            SETTINGS | {"name": name, "optimizer": {"lr": lr, "beta1": 0.9}},
            "stopped",
            None,
            None,
        )
        for name, lr in (("a", 1e-3), ("b", 2e-3))
    ]
    text = write_report(records, tmp_path / "page.html").read_text("utf-8").replace("<wbr>", "")
    found = re.findall(r"<td><code>([\w.]+)</code></td><td><code>([^<]*)</code></td><td><code>([^<]*)</code>", text)
    assert found == [("optimizer.lr", "0.001", "0.002")]


def test_steps_that_a_rollback_undid_are_no_part_of_the_curve(tmp_path: Path) -> None:
    rows = metrics(50)
    back = {"step": 40, "tokens": 40_000, "seconds": 5.0, "train/loss": 99.0, "rolled_back_over_batches": [40, 51]}
    again = [row | {"train/loss": 2.0} for row in rows[40:50]]
    run = record(make_run(tmp_path / "run", [*rows, back, *again]), "stopped")
    series = run.series("train/loss")
    assert [place for place, _ in series] == [1000.0 * step for step in range(1, 51)]
    assert [value for _, value in series[40:]] == [2.0] * 10
    assert len(run.rollbacks) == 1
    text = write_report([run], tmp_path / "page.html").read_text("utf-8")
    assert "1 step where the run went back" in text


@pytest.mark.parametrize("layers", [1, 12, 40, 96])
def test_of_many_heads_those_of_layers_evenly_apart_are_shown(layers: int) -> None:
    heads = [{"layer": layer, "head": head} for layer in range(layers) for head in range(12)]
    shown = _evenly(heads)
    found = sorted({head["layer"] for head in shown})
    assert len(shown) <= 64
    assert (found[0], found[-1]) == (0, layers - 1)
    assert len({b - a for a, b in pairwise(found)}) <= 2


def test_a_damaged_file_beside_the_metrics_costs_only_what_it_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", metrics(20))
    (folder / "built" / "report.json").write_text("{")
    (folder / "environment.json").unlink()
    text = write_report([record(folder, "stopped")], tmp_path / "page.html").read_text("utf-8")
    assert "report of the build is no longer there" in text
    assert "Nats per token" in text
