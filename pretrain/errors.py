"""Every error of ours, and the exit code that each one gives.

PretrainError                 1   any failure that has no code of its own
├── UsageError                2   wrong usage: an unknown command, run, path or device
│   └── ConfigError           2   a setting that is unknown, of the wrong type or out of range
├── DataError                 3   an empty, damaged or mismatched corpus, token shard or tokenizer
├── CheckpointError           3   a damaged or mismatched checkpoint
├── EvaluationError           3   nothing to evaluate: no target tokens, or targets without bytes
├── SamplingError             3   logits from which no token can be drawn
├── TrainingError             1   a loss that stays NaN
├── LockedError               1   another process works on this run
├── RankError                 1   another of the processes that train together failed, died or hangs
└── Interrupted              75   a signal; what was finished is saved, the same command goes on
"""

from typing import ClassVar


class PretrainError(Exception):
    """Base of all errors that a user may see; the message is one line that says what to do instead."""

    exit_code: ClassVar[int] = 1


class UsageError(PretrainError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(PretrainError):
    exit_code = 3


class CheckpointError(PretrainError):
    exit_code = 3


class EvaluationError(PretrainError):
    exit_code = 3


class SamplingError(PretrainError):
    exit_code = 3


class TrainingError(PretrainError):
    pass


class LockedError(PretrainError):
    pass


class RankError(PretrainError):
    pass


class Interrupted(PretrainError):
    exit_code = 75
