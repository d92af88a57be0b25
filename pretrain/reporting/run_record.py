"""What is known of a run, read from its folder: what a page shows, whether the run is finished or still going on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pretrain.data.manifests import read_json
from pretrain.data.shards import TokenStream
from pretrain.errors import DataError
from pretrain.evaluation.references import named_references
from pretrain.inspection.attention import attention_weights
from pretrain.inspection.parameters import components
from pretrain.inspection.view import visible
from pretrain.models.attending import Attend
from pretrain.models.language_model import LanguageModel
from pretrain.reporting.axes import Gapped
from pretrain.tokenizers.tokenizer import Tokenizer
from pretrain.tracking.jsonl import read_metrics

TOKENS = 20  # of the text whose attention is shown
MOST_HEADS = 64  # shown; of a larger model, those of layers evenly apart

State = Literal["finished", "running", "stopped"]


@dataclass(frozen=True)
class Attention:
    """Attributes:
    layers: of the model, of which not all need be shown.
    tokens: labels of what was read.
    heads: layer, head and weights (T, S) of each.
    """

    layers: int
    tokens: list[str]
    heads: list[dict[str, Any]]


@dataclass(frozen=True)
class Insides:
    """What only the model can tell.

    Attributes:
        components: parameters by component; of n-grams, those stored by order.
        attention: None for a model without attention.
    """

    components: dict[str, int]
    attention: Attention | None


@dataclass(frozen=True)
class RunRecord:
    """Attributes:
    settings: of config.yaml.
    rows: of metrics.jsonl; a number that was not finite is None.
    result: what the finished run printed, or None.
    references: losses in nats per token, as people name them.
    samples: step and text, in order.
    data: the report of the build that made its tokens, or None where there is none.
    insides: None where there is no checkpoint to look into.
    """

    folder: Path
    state: State
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    result: dict[str, Any] | None
    references: dict[str, float]
    samples: list[tuple[int, str]]
    environment: dict[str, Any]
    manifest: dict[str, Any]
    data: dict[str, Any] | None
    insides: Insides | None

    def series(self, name: str, across: str = "tokens") -> list[Gapped]:
        """The values of a metric over `tokens` or `seconds`, without steps that a rollback undid; a null is a gap."""
        kept: list[dict[str, Any]] = []
        for row in self.rows:
            if "rolled_back_over_batches" in row:
                while kept and kept[-1]["step"] > row["step"]:
                    kept.pop()
            elif name in row:
                kept.append(row)
        return [(row[across], row[name]) for row in kept]

    def last(self, name: str) -> Any:
        """The last value of a metric that is one, or None."""
        return next((row[name] for row in reversed(self.rows) if row.get(name) is not None), None)

    @property
    def steps(self) -> int:
        """How many were made."""
        return int(self.last("step") or 0)

    @property
    def validation(self) -> dict[str, Any]:
        """Loss, perplexity and bits_per_byte: of all validation tokens at the end, else of the last evaluation."""
        if self.result:
            return dict(self.result["validation"])
        return {name: self.last(f"val/{name}") for name in ("loss", "perplexity", "bits_per_byte")}

    @property
    def train_loss(self) -> float | None:
        """Nats per token, the mean since the last evaluation; before the end, the last step's."""
        loss: float | None = self.result["train"]["loss"] if self.result else self.last("train/loss")
        return loss

    @property
    def parameters(self) -> int | None:
        """Tensor elements, for n-grams stored n-grams; None where nothing tells."""
        if self.result:
            return int(self.result["parameters"])
        return sum(self.insides.components.values()) if self.insides else None

    @property
    def tokens_per_second(self) -> float | None:
        """The median over the steps."""
        speeds = [value for _, value in self.series("tokens_per_second") if value is not None]
        return median(speeds) if speeds else None

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """Rows of steps that left the model alone."""
        before, found = 0, []
        for row in self.rows:
            if (count := row.get("skipped_steps")) is not None:
                if count > before:
                    found.append(row)
                before = count
        return found

    @property
    def rollbacks(self) -> list[dict[str, Any]]:
        """Rows of steps after which the run went back to a checkpoint."""
        return [row for row in self.rows if "rolled_back_over_batches" in row]

    @property
    def spikes(self) -> list[dict[str, Any]]:
        """Rows of steps that were taken although loss or gradient stood out."""
        threshold = self.settings.get("update", {}).get("spike_threshold", math.inf)
        others = {id(row) for row in (*self.skipped, *self.rollbacks)}
        return [row for row in self.rows if (row.get("spike") or 0) > threshold and id(row) not in others]


def read_record(
    folder: Path, settings: dict[str, Any], state: State, result: dict[str, Any] | None, insides: Insides | None
) -> RunRecord:
    """What `folder` holds, and what the caller knows of it."""
    manifest = _json(folder / "data_manifest.json") or {}
    built = Path(manifest["folder"]) if "folder" in manifest else None
    return RunRecord(
        folder,
        state,
        settings,
        read_metrics(folder / "metrics.jsonl"),
        result,
        named_references(_references(folder, built, manifest, settings)),
        sorted(_samples(folder / "samples")),
        _json(folder / "environment.json") or {},
        manifest,
        _json(built / "report.json") if built else None,
        insides,
    )


def look_into(model: LanguageModel, tokenizer: Tokenizer, tokens: Sequence[int]) -> Insides:
    """What a page shows of a model; its dropout is off from here on.

    Args:
        tokens: ids whose attention is shown; none where the model does not read a text from left to right.
    """
    model.eval()
    ids = list(tokens[: min(TOKENS, model.context_length or TOKENS)])
    found = (
        attention_weights(model, ids) if len(ids) > 1 and any(isinstance(p, Attend) for p in model.modules()) else []
    )
    heads = [
        {"layer": layer, "head": head, "weights": weights}
        for layer, (_, together) in enumerate(found)
        for head, weights in enumerate(together)
    ]
    labels = ["end of text" if token == tokenizer.end_of_text else visible(tokenizer.decode([token])) for token in ids]
    return Insides(components(model), Attention(len(found), labels, _evenly(heads)) if heads else None)


def beginning(stream: TokenStream) -> list[int]:
    """The end of text and the first tokens of the first document that has any."""
    return [stream.end_of_text, *next((ids[:TOKENS].tolist() for ids in stream.documents() if len(ids)), [])]


def _evenly(heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All heads of as many layers as may be shown, the first and the last among them."""
    layers = sorted({head["layer"] for head in heads})
    most = max(1, MOST_HEADS * len(layers) // len(heads))
    if len(layers) > most:
        layers = [layers[place * (len(layers) - 1) // max(1, most - 1)] for place in range(most)]
    return [head for head in heads if head["layer"] in layers][:MOST_HEADS]


def _references(
    folder: Path, built: Path | None, manifest: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The run's own; before its end those of earlier runs on the same tokens, or the uniform one alone."""
    if found := _json(folder / "references.json"):
        return found
    if built and settings.get("objective", {}).get("_target_", "NextToken").endswith("NextToken"):
        found = _json(built / "references.json")
    return found or ({"uniform": math.log(manifest["vocab_size"])} if manifest else {})


def _samples(folder: Path) -> Iterable[tuple[int, str]]:
    for file in folder.glob("step_*.txt"):
        number = file.stem.removeprefix("step_")
        if number.isdigit():
            yield int(number), file.read_text("utf-8", errors="replace")


def _json(path: Path) -> dict[str, Any] | None:
    """A file of JSON, or None where there is none that can be read: a page shows what is left."""
    try:
        found: dict[str, Any] | None = read_json(path)
    except DataError:
        return None
    return found
