"""A page that compares runs: their figures, their curves over each other, the settings in which they differ."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from pretrain.reporting.chart import Curve
from pretrain.reporting.examples import visible
from pretrain.reporting.page_frame import breakable, document, inline, table
from pretrain.reporting.run_page import STYLE, flat, setting, training_chart
from pretrain.reporting.run_record import RunRecord
from pretrain.tracking.console import duration

MOST_LEVELS = 8  # lines across a chart, about; what lies between them stands in the table
ELSEWHERE = {"name", "runs_dir", "data_dir", "format"}  # settings of which no run differs in what it learns
COMPARISON_STYLE = """
.compared td, .compared th { max-width: 190px; min-width: 84px; white-space: normal; overflow-wrap: anywhere;
  vertical-align: top }
.figures td:not(:first-child) { white-space: nowrap } .compared b { font-weight: 600; color: var(--c2) }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; vertical-align: -1px;
  background: var(--curve) }
"""


def comparison_page(records: Sequence[RunRecord]) -> str:
    """The text of a page that compares two runs or more."""
    names = short_names(records)
    parts = [
        f"<h1>{len(records)} runs compared</h1>",
        *_warnings(records),
        "<h2>Figures</h2>",
        _figures(records, names),
        f"<h2>{'Loss, nats per token' if same_tokens(records) else 'Bits per byte of the validation texts'}</h2>",
        *_losses(records, names),
        *_training(records, names),
        "<h2>Settings that differ</h2>",
        _differences(records, names),
        "<h2>What they write</h2>",
        *_samples(records, names),
    ]
    return document(f"{', '.join(names)} – pretrain", parts, STYLE + COMPARISON_STYLE)


def short_names(records: Sequence[RunRecord]) -> list[str]:
    """The folders' names, with as many folders above as tell them apart."""
    parts = [record.folder.absolute().parts for record in records]
    deep = next(
        (deep for deep in range(1, max(map(len, parts)) + 1) if len({part[-deep:] for part in parts}) == len(parts)), 1
    )
    return ["/".join(part[-deep:]) for part in parts]


def same_tokens(records: Sequence[RunRecord]) -> bool:
    """Whether losses per token can be compared: the tokens are of the same tokenizer."""
    return len({record.manifest.get("tokenizer") for record in records}) == 1


def _warnings(records: Sequence[RunRecord]) -> Iterator[str]:
    if not same_tokens(records):
        yield "<p>Their tokenizers differ, so that losses per token cannot be compared; bits per byte can.</p>"
    if len({_validation_texts(record) for record in records}) > 1:
        yield "<p>They were measured on different validation texts, so that a better figure may be an easier text.</p>"
    if going := [record.folder.name for record in records if record.state != "finished"]:
        yield f"<p>Not finished: {inline(', '.join(going))}. Their figures are those of the last evaluation.</p>"


def _validation_texts(record: RunRecord) -> tuple[int, ...]:
    """The size of the validation texts in every unit that no tokenizer changes."""
    shards = record.manifest.get("splits", {}).get("validation", [])
    return tuple(sum(shard[what] for shard in shards) for what in ("documents", "bytes", "characters", "words"))


def _figures(records: Sequence[RunRecord], names: Sequence[str]) -> str:
    rows: list[tuple[str, list[Any], Callable[[Any], str], bool]] = [
        ("state", [record.state for record in records], str, False),
        ("validation loss", [record.validation["loss"] for record in records], _four, same_tokens(records)),
        ("perplexity", [record.validation["perplexity"] for record in records], _two, same_tokens(records)),
        ("bits per byte", [record.validation["bits_per_byte"] for record in records], _four, True),
        ("training loss", [record.train_loss for record in records], _four, False),
        ("parameters", [record.parameters for record in records], _whole, False),
        ("steps", [record.steps for record in records], _whole, False),
        ("training tokens", [record.last("tokens") for record in records], _whole, False),
        ("time", [record.last("seconds") for record in records], duration, False),
        ("tokens a second", [record.tokens_per_second for record in records], _whole, False),
        ("steps skipped", [len(record.skipped) for record in records], _whole, False),
    ]
    cells = []
    for title, values, written, ranked in rows:
        known = {value for value in values if value is not None}
        best = min(known) if ranked and len(known) > 1 else None
        texts = ["–" if value is None else escape(written(value)) for value in values]
        cells.append(
            [
                title,
                *(
                    f"<b>{text}</b>" if best is not None and value == best else text
                    for value, text in zip(values, texts, strict=True)
                ),
            ]
        )
    return f'<div class="compared figures">{table(["", *_heads(names)], cells)}</div>'


def _heads(names: Sequence[str]) -> list[str]:
    return [
        f'<i class="swatch {Curve(name, [], number).style}"></i>{breakable(name)}' for number, name in enumerate(names)
    ]


def _losses(records: Sequence[RunRecord], names: Sequence[str]) -> Iterator[str]:
    if same_tokens(records):
        metrics = [("val/loss", "Validation loss"), ("train/loss", "Training loss")]
    else:
        metrics = [("val/bits_per_byte", "Bits per byte")]
    drawn = [
        training_chart(records, metric, f"{title} by {across}", across, names, _levels(records, names, metric))
        for metric, title in metrics
        for across in ("tokens", "seconds")
    ]
    if any(drawn):
        yield f'<div class="plots">{"".join(drawn)}</div>'
    else:
        yield "<p>None of these runs has a curve: each made one step at most, as models that count do.</p>"


def _training(records: Sequence[RunRecord], names: Sequence[str]) -> Iterator[str]:
    titles = {
        "lr": "Learning rate",
        "grad_norm": "Gradient norm",
        "tokens_per_second": "Tokens a second",
        "memory_bytes": "Memory (bytes)",
    }
    drawn = [training_chart(records, metric, title, "tokens", names) for metric, title in titles.items()]
    if any(drawn):
        yield "<h2>Training</h2>"
        yield f'<div class="plots">{"".join(drawn)}</div>'


def _levels(records: Sequence[RunRecord], names: Sequence[str], metric: str) -> dict[str, float]:
    """Runs that learned in one step, which have no curve: name to their one value, as far as there is room for it."""
    single = [(record.last(metric), name) for record, name in zip(records, names, strict=True) if record.steps == 1]
    known = sorted((value, name) for value, name in single if value is not None)
    apart = (known[-1][0] - known[0][0]) / MOST_LEVELS if known else 0.0
    kept: dict[str, float] = {}
    for value, name in known:
        if not kept or value >= max(kept.values()) + apart:
            kept[name] = value
    return kept


def _differences(records: Sequence[RunRecord], names: Sequence[str]) -> str:
    own = [dict(flat(record.settings)) for record in records]
    keys = dict.fromkeys(key for settings in own for key in settings)
    rows = []
    for key in keys:
        values = [setting(settings[key]) if key in settings else "–" for settings in own]
        if key not in ELSEWHERE and len(set(values)) > 1:
            rows.append([f"<code>{breakable(key)}</code>", *(f"<code>{value}</code>" for value in values)])
    versions = [dict(flat(record.environment)) for record in records]
    for key in dict.fromkeys(key for found in versions for key in found):
        values = [setting(found[key]) if key in found else "–" for found in versions]
        if len(set(values)) > 1:
            rows.append([breakable(key.removeprefix("versions.")), *(f"<code>{value}</code>" for value in values)])
    if not rows:
        return "<p>They have the same settings and versions.</p>"
    return f'<div class="compared">{table(["", *_heads(names)], rows)}</div>'


def _samples(records: Sequence[RunRecord], names: Sequence[str]) -> Iterator[str]:
    yield '<div class="samples">'
    for record, name in zip(records, names, strict=True):
        if record.samples:
            step, text = record.samples[-1]
            told = f'<h3>{inline(name)} <span class="soft">step {step:,}</span></h3>'
            yield f'<article>{told}<pre dir="auto">{escape(visible(text))}</pre></article>'
        else:
            yield f'<article><h3>{inline(name)}</h3><p class="soft">No sample was kept.</p></article>'
    yield "</div>"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _two(value: float) -> str:
    return f"{value:,.2f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"
