"""What a sweep with `law=true` ends in: the scaling law of its runs, how well it told the largest, and a picture."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pretrain.commands.run_folder import saved_settings
from pretrain.config import Part, build
from pretrain.data.manifests import read_json, temporary_name, write_json
from pretrain.errors import TrainingError
from pretrain.inspection.parameters import components, hollow
from pretrain.reporting.law_picture import Size, law_picture
from pretrain.tracking.console import say, warn
from pretrain.training.runs import read_result, runs_of_sweep
from pretrain.training.scaling import Law, Run, fit, interval, resampled

LAW = "law.json"
TABLES = ("embedding", "head")  # what N leaves out, as Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361)
SHARE = 0.8  # of resampled laws between the bounds that are told
CONSTANTS = ("E", "A", "alpha", "B", "beta", "repeats")


@dataclass(frozen=True)
class Told:
    """What the law of the smaller sizes said of a run of the largest, beside what was measured."""

    tokens: float
    predicted: float
    low: float
    high: float
    measured: float


def keep_law(folder: Path) -> None:
    """Fit a law to the finished runs of a sweep that asks for it, and write law.json and law.svg beside them."""
    runs = [run for run in map(_measured, runs_of_sweep(folder)) if run]
    if not runs:
        return
    try:
        law = fit(runs)
    except TrainingError as error:
        warn(f"no scaling law: {error}")
        return
    laws = resampled(runs, law, seed=0)
    told = _next_size(runs)
    between = {name: interval([getattr(one, name) for one in laws], SHARE) for name in CONSTANTS}
    document = {
        "law": asdict(law),
        "between": between,
        "share": SHARE,
        "runs": [asdict(run) | {"fitted": law.loss(run.parameters, run.tokens, run.unique)} for run in runs],
        "next_size": [asdict(one) | {"off": one.predicted - one.measured} for one in told],
    }
    write_json(folder / LAW, document)
    temporary = temporary_name(folder / "law.svg")
    temporary.write_text(law_picture(_sizes(runs, law), _title(law)), "utf-8")
    temporary.rename(folder / "law.svg")
    say(f"{_title(law)}; {folder / LAW} has how sure it is, law.svg draws it")
    for one in told:
        say(
            f"the largest size after {one.tokens:,.0f} tokens: {one.predicted:.3f} predicted from the smaller ones "
            f"({one.low:.3f} to {one.high:.3f}), {one.measured:.3f} measured, {one.predicted - one.measured:+.3f} off"
        )


def _measured(folder: Path) -> Run | None:
    """A run of a sweep that asks for a law; None where it is not finished, or has no finite loss."""
    settings, result = saved_settings(folder), read_result(folder)
    if not settings.get("law") or not result or result["validation"]["loss"] is None:
        return None
    manifest = read_json(folder / "data_manifest.json")
    with hollow():
        model = build(Part(settings["model"]), vocab_size=manifest["vocab_size"], special_ids=0)
    counted = components(model)
    unique = sum(shard["tokens"] for shard in manifest["splits"]["train"])
    parameters = sum(count for name, count in counted.items() if name not in TABLES)
    return Run(parameters, result["tokens"], unique, result["validation"]["loss"])


def _next_size(runs: list[Run]) -> list[Told]:
    """What is told of the largest size by a law that has seen the smaller ones only, as before it was trained."""
    largest = max(run.parameters for run in runs)
    smaller = [run for run in runs if run.parameters < largest]
    try:
        law = fit(smaller)
    except TrainingError:
        return []
    laws = resampled(smaller, law, seed=0)
    found = []
    for run in runs:
        if run.parameters == largest:
            at = (run.parameters, run.tokens, run.unique)
            low, high = interval([one.loss(*at) for one in laws], SHARE)
            found.append(Told(run.tokens, law.loss(*at), low, high, run.loss))
    return found


def _sizes(runs: list[Run], law: Law) -> list[Size]:
    """Each size with its losses by tokens, as measured and as the law has them."""
    first, last = min(run.tokens for run in runs), max(run.tokens for run in runs)
    places = [first * (last / first) ** (step / 40) for step in range(41)]
    return [
        Size(
            f"{parameters / 1e6:.2g}M",
            sorted((run.tokens, run.loss) for run in runs if run.parameters == parameters),
            [(tokens, law.loss(parameters, tokens, runs[0].unique)) for tokens in places],
        )
        for parameters in sorted({run.parameters for run in runs})
    ]


def _title(law: Law) -> str:
    return f"L = {law.E:.2f} + {law.A:.3g} / N^{law.alpha:.2f} + {law.B:.3g} / D^{law.beta:.2f}"
