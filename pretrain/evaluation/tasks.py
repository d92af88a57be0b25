"""Downstream tasks through lm-eval: its own by name, those of a YAML file, and files of questions with their answers.

A JSONL file is a task when its fields are those of a known kind: nothing has to be written, nothing is downloaded.
"""

import json
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pretrain.errors import DataError, UsageError
from pretrain.models.language_model import LanguageModel
from pretrain.stopping import Stop
from pretrain.tokenizers.tokenizer import Tokenizer

ACCURACY = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
# Accuracy where the log-probability of an answer is divided by its length in bytes.
BY_LENGTH = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}
PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}

# Kinds of files by the fields that tell them, with lm-eval's settings; prompts are like those of lm-eval's own tasks.
KINDS: dict[tuple[str, ...], dict[str, Any]] = {
    # The better of two sentences (BLiMP).
    ("good", "bad"): {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[good, bad]}}",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [ACCURACY],
    },
    # One of several answers (ARC, PIQA, COPA).
    ("query", "choices", "gold"): {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query | trim}}{{'\\nAnswer:' if 'Question:' in query else ''}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [ACCURACY, BY_LENGTH],
    },
    # One of several beginnings, by the probability of the end (WinoGrande, Winograd).
    ("context_options", "continuation", "gold"): {
        "output_type": "multiple_choice",
        "doc_to_text": "gold",
        "doc_to_choice": "context_options",
        "doc_to_target": "continuation",
        "metric_list": [ACCURACY],
    },
    # The last word (LAMBADA).
    ("context", "continuation"): {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "target_delimiter": "",
        "metric_list": [ACCURACY, PERPLEXITY],
    },
    # One of five answers in Japanese (JCommonsenseQA).
    ("question", "choice0", "choice1", "choice2", "choice3", "choice4", "label"): {
        "output_type": "multiple_choice",
        "doc_to_text": "質問：{{question}}\n回答：",
        "doc_to_choice": "{{[choice0, choice1, choice2, choice3, choice4]}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [ACCURACY, BY_LENGTH],
    },
    # Whether a sentence follows from another, in Japanese (JNLI).
    ("sentence1", "sentence2", "label"): {
        "output_type": "multiple_choice",
        "doc_to_text": "前提：{{sentence1}}\n仮説：{{sentence2}}\n関係：",
        "doc_to_choice": ["含意", "矛盾", "中立"],
        "doc_to_target": "{{['entailment', 'contradiction', 'neutral'].index(label)}}",
        "target_delimiter": "",
        "metric_list": [ACCURACY],
    },
}
NAME = re.compile(r"^(?:task|group):\s*([\w.-]+)\s*$", re.MULTILINE)


def evaluate_tasks(
    model: LanguageModel,
    tokenizer: Tokenizer,
    names: Sequence[str],
    *,
    tasks_dir: str | None,
    few_shot: int,
    limit: int | None,
    longest: int,
    stop: Stop,
) -> dict[str, dict[str, Any]]:
    """What a model scores in each task.

    Args:
        names: lm-eval's names, names in `tasks_dir`, or paths of YAML and JSONL files.
        few_shot: solved questions before each question.
        limit: questions of each task; None: all.
        longest: tokens of a row.
    Returns:
        by task, then by metric; with each metric NAME its NAME_stderr, and the number of questions.
    Raises:
        UsageError: lm-eval is not installed, or there is no such task.
        DataError: a JSONL file is of no known kind.
        Interrupted: a signal came.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        from pretrain.evaluation.harness import HarnessModel
    except ImportError as error:
        raise UsageError(f"tasks= needs lm-eval ({error}): pip install 'pretrain[eval]'") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    files = {name: _file(name, tasks_dir) for name in names}
    asked: list[Any] = []
    folders = {path.parent for path in files.values() if path and path.suffix != ".jsonl"}
    manager = TaskManager(include_path=sorted(map(str, folders)) or None, include_defaults=None in files.values())
    for name, path in files.items():
        if path and path.suffix == ".jsonl":
            asked.append(_task(path))
            continue
        known = _named(path) if path else name
        if known not in manager.all_tasks:
            where = f", and {tasks_dir} has no {name}.yaml or {name}.jsonl" if tasks_dir else ""
            raise UsageError(f"lm-eval has no task {known}{where}; name a JSONL or YAML file, or set tasks_dir")
        asked.append(known)
    with redirect_stdout(sys.stderr):  # lm-eval prints there what it does, and stdout is for the result
        found = simple_evaluate(
            HarnessModel(model, tokenizer, longest, stop),
            tasks=asked,
            num_fewshot=few_shot,
            limit=limit,
            task_manager=manager,
            log_samples=False,
        )
    counts = found.get("n-samples", {})
    return {name: _figures(row, counts.get(name, {})) for name, row in found["results"].items()}


def _file(name: str, tasks_dir: str | None) -> Path | None:
    """The file that a name stands for; None for a task of lm-eval's own."""
    if name.endswith((".jsonl", ".yaml", ".yml")):
        if not Path(name).is_file():
            raise UsageError(f"tasks={name} does not exist")
        return Path(name)
    candidates = [Path(tasks_dir) / f"{name}{suffix}" for suffix in (".yaml", ".jsonl")] if tasks_dir else []
    return next((path for path in candidates if path.is_file()), None)


def _named(path: Path) -> str:
    found = NAME.search(path.read_text("utf-8"))
    if not found:
        raise DataError(f"{path} names no task; a line of it must be `task: NAME`")
    return found[1]


def _task(path: Path) -> Any:
    """A task of the questions in a JSONL file."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"{path} is not JSONL: {error}") from error
    first = records[0] if records and isinstance(records[0], dict) else {}
    kind = next((kind for kind in KINDS if first.keys() >= set(kind)), None)
    if kind is None:
        known = "; ".join(", ".join(fields) for fields in KINDS)
        raise DataError(f"{path} has the fields {', '.join(first) or 'of nothing'}; known kinds have {known}")
    questions = Dataset.from_list([{field: record[field] for field in kind} for record in records])
    config = {
        "task": path.stem,
        "custom_dataset": lambda **_: {"test": questions},
        "test_split": "test",
        "fewshot_split": "test",  # the question itself is never one of those shown
        **KINDS[kind],
    }
    return ConfigurableTask(config=config)


def _figures(row: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """lm-eval's figures of a task, under the names of their metrics."""
    figures: dict[str, Any] = {}
    for key, value in row.items():
        metric, _, answers = key.partition(",")
        if answers and isinstance(value, int | float):
            figures[metric if answers == "none" else key] = float(value)
    return figures | ({"questions": counts["effective"]} if "effective" in counts else {})
