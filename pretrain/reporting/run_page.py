"""report.html of a run: where its loss stands, how it got there, what it writes, what it is made of."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pretrain.reporting.axes import short
from pretrain.reporting.chart import CHART_STYLE, Curve, chart
from pretrain.reporting.examples import visible
from pretrain.reporting.funnel import funnel_figure
from pretrain.reporting.heat_maps import HEAT_STYLE, head_maps
from pretrain.reporting.page_frame import breakable, document, inline, table, tiles
from pretrain.reporting.run_record import RunRecord
from pretrain.reporting.tables import byte_size, share
from pretrain.tracking.console import duration

MOST_SAMPLES = 8  # shown, evenly apart
LISTED = 12  # steps named in a sentence

RUN_STYLE = """
:root { --c0: #2f6db3; --c1: #d1495b; --c2: #2a9d72; --c3: #b87a00; --c4: #8a5cc2; --c5: #3a9bb8 }
@media (prefers-color-scheme: dark) { :root { --c0: #5ea1e6; --c1: #f0727f; --c2: #4cc397; --c3: #e0a83c;
  --c4: #b18ae8; --c5: #5fc1dd } }
.c0 { --curve: var(--c0) } .c1 { --curve: var(--c1) } .c2 { --curve: var(--c2) } .c3 { --curve: var(--c3) }
.c4 { --curve: var(--c4) } .c5 { --curve: var(--c5) }
body { max-width: 960px } h1 { overflow-wrap: anywhere; margin-bottom: 4px; line-height: 1.25 }
.lead { margin: 0 0 16px } .chart + .plots { margin-top: 12px }
.state { display: inline-block; padding: 0 9px; border-radius: 10px; border: 1px solid var(--line); font-size: 13px }
.share { display: block; height: 9px; border-radius: 2px; background: var(--c0); min-width: 1px }
.ours td { font-weight: 600 } .ours .share { background: var(--c1) }
.bars th { white-space: normal; vertical-align: bottom } .bars td:first-child { white-space: normal }
@media (max-width: 560px) { .bars th:last-child, .bars td:last-child { display: none }
  .bars th:not(:first-child), .bars td:not(:first-child) { padding-left: 10px } }
.tiles { grid-template-columns: repeat(4, 1fr) } @media (max-width: 720px) { .tiles { grid-template-columns: 1fr 1fr } }
.bars td:last-child { width: 45%; min-width: 90px } .bars td:nth-child(n+4):not(:last-child) { padding-right: 0 }
.samples { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
 .samples article { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 10px 14px; min-width: 0 }
.samples h3 { margin: 0; font-weight: 600 } .samples pre { background: none; padding: 0; max-height: 190px }
.pairs table { white-space: normal } .pairs td { text-align: left; vertical-align: top; overflow-wrap: anywhere;
  padding: 3px 0 3px 16px } .pairs td:first-child { color: var(--soft); width: 40% } .pairs th { display: none }
details.pairs[open] { padding-bottom: 6px } details.pairs { margin: 4px 0 } .pairs .wide { padding: 0 14px }
"""
STYLE = CHART_STYLE + HEAT_STYLE + RUN_STYLE


def run_page(record: RunRecord) -> str:
    """The text of report.html."""
    name = record.folder.name
    parts = [
        f"<h1>{inline(name)}</h1>",
        _lead(record),
        _figures(record),
        "<h2>Loss</h2>",
        *_losses(record),
        *_references(record),
        *_training(record),
        *_samples(record),
        "<h2>Data</h2>",
        *_data(record),
        *_parameters(record),
        *_attention(record),
        "<h2>Settings and versions</h2>",
        *_settings(record),
    ]
    return document(f"{name} – pretrain", parts, STYLE)


def _lead(record: RunRecord) -> str:
    step, most = record.steps, record.settings.get("trainer", {}).get("max_steps")
    if record.state == "finished":
        told = ""
    elif record.state == "running":
        told = f" It was at step {step:,}" + (f" of at most {most:,}" if most else "") + " when this page was written."
    else:
        told = f" It stopped at step {step:,}; the same command goes on."
    model = record.settings.get("model", {}).get("_target_", "").rpartition(".")[2]
    tokenizer = record.settings.get("tokenizer", {}).get("_target_", "").rpartition(".")[2]
    sources = ", ".join(record.settings.get("data", {}).get("sources", {}))
    what = " · ".join(inline(part) for part in (model, sources, tokenizer) if part)
    return f'<p class="lead soft"><span class="state">{record.state}</span> {what}{told}</p>'


def _figures(record: RunRecord) -> str:
    """The tiles above."""
    validation = record.validation
    whole = "" if record.result else ", last evaluation"
    shown = []
    if validation["loss"] is not None:
        shown.append((f"{validation['loss']:.4f}", f"validation loss, nats a token{whole}"))
    elif unseen := validation.get("unseen"):
        shown.append(("inf", f"validation loss: {unseen['targets']:,} of {unseen['of']:,} targets unseen"))
    if validation.get("perplexity") is not None:
        shown.append((f"{validation['perplexity']:,.2f}", "perplexity"))
    if validation.get("bits_per_byte") is not None:
        shown.append((f"{validation['bits_per_byte']:.4f}", "bits per byte"))
    if record.train_loss is not None:
        shown.append((f"{record.train_loss:.4f}", "training loss"))
    if record.parameters:
        shown.append((_large(record.parameters), "parameters"))
    if record.rows:
        tokens, seconds = record.last("tokens"), record.last("seconds")
        shown.append((_large(tokens), f"training tokens in {_steps(record.steps)}"))
        shown.append((duration(seconds), "of training"))
    if record.tokens_per_second:
        shown.append((_large(round(record.tokens_per_second)), "tokens a second, median"))
    return tiles(shown) if shown else ""


def _losses(record: RunRecord) -> Iterator[str]:
    train = record.series("train/loss")
    if not train:
        yield "<p>No metrics are there yet: the run has not made its first step.</p>"
        return
    if len(train) == 1:
        yield "<p>This run learned everything in one step, as models that count do, so there is no curve.</p>"
        return
    curves = [
        Curve("training", train, smooth=True),
        Curve("validation", record.series("val/loss"), colour=1, dots=True),
    ]
    yield chart("Nats per token", curves, "tokens", levels=_levels(record), marks=_marks(record), height=300)
    yield from _incidents(record)


def _levels(record: RunRecord) -> dict[str, float]:
    """The references by names that are short enough for a phone: 5-gram for the best n-gram, order 5."""
    return {re.sub(r"best n-gram, order (\d+)", r"\1-gram", name): loss for name, loss in record.references.items()}


def _marks(record: RunRecord) -> dict[str, list[float]]:
    found = {"skipped steps": record.skipped, "rollbacks": record.rollbacks, "spikes": record.spikes}
    return {name: [row["tokens"] for row in rows] for name, rows in found.items() if rows}


def _incidents(record: RunRecord) -> Iterator[str]:
    """A sentence for each kind of what went wrong on the way; its places are marked on the axes."""
    said = [
        (record.skipped, "skipped, because loss or gradient was not finite or stood out"),
        (record.rollbacks, "where the run went back to a checkpoint, past the data behind it"),
        (record.spikes, "taken although loss or gradient stood out"),
    ]
    for rows, what in said:
        if rows:
            steps = ", ".join(f"{row['step']:,}" for row in rows[:LISTED])
            more = f" and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
            yield f'<p class="soft">{_steps(len(rows))} {what}: {steps}{more}.</p>'


def _references(record: RunRecord) -> Iterator[str]:
    """A table of the references and the run, the worst first; bits per byte follow from the run's own."""
    loss, bits = record.validation["loss"], record.validation["bits_per_byte"]
    losses = [(inline(name), value, False) for name, value in record.references.items()]
    if loss is not None:
        losses.append((f"this {'run' if record.result else 'run so far'}", loss, True))
    if not losses:
        return
    most = max(value for _, value, _ in losses)
    rows = []
    for name, value, ours in sorted(losses, key=lambda item: -item[1]):
        cells = [name, f"{value:.4f}", f"{math.exp(min(value, 700)):,.2f}"]
        cells += [f"{bits * value / loss:.4f}"] if bits and loss else []
        bar = f'<i class="share" style="width:{value / most:.1%}"></i>'
        rows.append((ours, [*cells, bar]))
    columns = ["", "loss", "perplexity", *(["bits per byte"] if bits and loss else []), ""]
    yield "<h2>Among simple models, on the same tokens</h2>"
    yield f'<div class="bars">{_marked_table(columns, rows)}</div>'


def _marked_table(columns: Sequence[str], rows: Sequence[tuple[bool, Sequence[str]]]) -> str:
    """A table in which the run's own row stands out."""
    text = table(columns, [cells for _, cells in rows])
    head, *lines = text.split("\n<tr>")
    marked = [
        f'\n<tr class="ours">{line}' if ours else f"\n<tr>{line}"
        for (ours, _), line in zip(rows, lines[1:], strict=True)
    ]
    return head + f"\n<tr>{lines[0]}" + "".join(marked)


def _training(record: RunRecord) -> Iterator[str]:
    charts = [
        training_chart([record], "lr", "Learning rate", "tokens"),
        training_chart([record], "grad_norm", "Gradient norm", "tokens", marks=_marks(record)),
        training_chart([record], "tokens_per_second", "Tokens a second", "tokens"),
        training_chart([record], "memory_bytes", "Memory (bytes)", "tokens"),
    ]
    if any(charts):
        yield "<h2>Training</h2>"
        yield f'<div class="plots">{"".join(charts)}</div>'


def training_chart(
    records: Sequence[RunRecord],
    metric: str,
    title: str,
    across: str,
    names: Sequence[str] = ("",),
    levels: Mapping[str, float] | None = None,
    marks: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """A small chart of a metric of one run or several; empty where none has two values of it."""
    smooth = metric not in ("lr", "memory_bytes") and not metric.startswith("val/")
    curves = []
    for number, (record, name) in enumerate(zip(records, names, strict=True)):
        points = record.series(metric, across)
        if record.steps > 1 and points:
            curves.append(Curve(name, points, number, smooth, dots=metric.startswith("val/")))
    return chart(
        title,
        curves,
        across,
        levels=levels,
        marks=marks,
        logarithmic=metric == "grad_norm",
        from_zero=metric in ("lr", "tokens_per_second", "memory_bytes"),
        faint=len(records) == 1,
    )


def _samples(record: RunRecord) -> Iterator[str]:
    yield "<h2>What it writes</h2>"
    if not record.samples:
        yield "<p>No sample was kept; sample.max_tokens and sample.eval_tokens set how long they are.</p>"
        return
    losses = {row["step"]: row["val/loss"] for row in record.rows if row.get("val/loss") is not None}
    last = len(record.samples) - 1
    places = (
        {place * last // (MOST_SAMPLES - 1) for place in range(MOST_SAMPLES)}
        if last >= MOST_SAMPLES
        else range(last + 1)
    )
    yield '<div class="samples">'
    for place in sorted(places):
        step, text = record.samples[place]
        loss = f' <span class="soft">validation loss {losses[step]:.3f}</span>' if step in losses else ""
        yield f'<article><h3>Step {step:,}{loss}</h3><pre dir="auto">{escape(visible(text))}</pre></article>'
    yield "</div>"


def _data(record: RunRecord) -> Iterator[str]:
    splits = record.manifest.get("splits", {})
    rows = [
        [inline(name), *(f"{sum(shard[what] for shard in shards):,}" for what in ("documents", "words", "tokens")),
         byte_size(sum(shard["bytes"] for shard in shards))]
        for name, shards in splits.items()
    ]  # fmt: skip
    if rows:
        yield table(["", "documents", "words", "tokens", "text"], rows)
        yield f"<p>{record.manifest['vocab_size']:,} ids in the vocabulary.</p>"
    if record.data:
        yield "<h3>What each stage kept</h3>"
        yield funnel_figure(record.data["stages"])
    else:
        yield '<p class="soft">The report of the build is no longer there, or its tokens were brought ready.</p>'


def _parameters(record: RunRecord) -> Iterator[str]:
    yield "<h2>Parameters</h2>"
    if record.insides is None or not record.insides.components:
        yield '<p class="soft">Shown by component where there is a checkpoint: <code>pretrain report</code></p>'
        return
    total = sum(record.insides.components.values())
    most = max(record.insides.components.values())
    rows = [
        [
            inline(name.replace("_", " ")) + (" (shares the embedding)" if name == "head" and not count else ""),
            f"{count:,}",
            share(count, total) if count else "",
            f'<i class="share" style="width:{count / most:.1%}"></i>' if count else "",
        ]
        for name, count in record.insides.components.items()
    ]
    rows.append(["all", f"{total:,}", "", ""])
    yield f'<div class="bars">{table(["component", "parameters", "share", ""], rows)}</div>'


def _attention(record: RunRecord) -> Iterator[str]:
    if record.insides is None or record.insides.attention is None:
        return
    found = record.insides.attention
    yield "<h2>Attention</h2>"
    shown = len({head["layer"] for head in found.heads})
    some = "" if shown == found.layers else f" Of {found.layers} layers {shown} are shown."
    yield f'<p class="soft">On the beginning of the first validation document, named layer.head.{some}</p>'
    yield head_maps(found.heads, found.tokens)


def _settings(record: RunRecord) -> Iterator[str]:
    groups: dict[str, list[tuple[str, Any]]] = {}
    for key, value in flat(record.settings):
        group = key.split(".")[0] if "." in key else "general"
        groups.setdefault(group, []).append((key, value))
    for group, pairs in groups.items():
        yield f'<details class="pairs"><summary><b>{inline(group)}</b></summary>{_pairs(pairs)}</details>'
    if record.environment:
        told = [(key.removeprefix("versions."), value) for key, value in flat(record.environment)]
        yield f'<details class="pairs" open><summary><b>versions and machine</b></summary>{_pairs(told)}</details>'


def _pairs(pairs: Sequence[tuple[str, Any]]) -> str:
    return table(
        ["", ""], [[f"<code>{breakable(key)}</code>", f"<code>{setting(value)}</code>"] for key, value in pairs]
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in `settings`."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting(value: Any) -> str:
    """A value of a config as HTML, as YAML would have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(setting(item) for item in value) + "]"
    return breakable(str(value))


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _large(number: float) -> str:
    """Whole below a hundred thousand, else with a unit."""
    return f"{number:,}" if number < 100_000 else short(float(f"{number:.3g}"))
