"""`pretrain data clean`: removes the stages, tokenizers and tokens that no run was made of."""

import shutil
import sys
from pathlib import Path
from typing import Any

from pretrain.config import DataCleanConfig
from pretrain.data.lock import alone
from pretrain.data.manifests import MANIFEST, read_json
from pretrain.errors import DataError, UsageError
from pretrain.reporting.tables import byte_size, show_table
from pretrain.stopping import Stop
from pretrain.tracking.console import say

KINDS = ("stages", "tokens", "tokenizers")  # folders of data_dir whose folders are cleaned


def run(settings: DataCleanConfig) -> dict[str, Any]:
    """What can be removed, and whether it was.

    Raises:
        DataError: nobody knows what some run needs.
        UsageError: there is no terminal to ask on, and yes=true was not given.
    """
    folder = Path(settings.data_dir)
    result: dict[str, Any] = {"folders": [], "bytes": 0, "removed": False}
    if not folder.is_dir():
        return result
    with alone(folder, Stop().install().check, say):
        needed = _needed(_existing(settings.runs_dir))
        unused = [
            path for kind in KINDS for path in sorted((folder / kind).glob("*")) if f"{kind}/{path.name}" not in needed
        ]
        result["folders"] = [{"folder": str(path), "bytes": _size(path)} for path in unused]
        result["bytes"] = sum(row["bytes"] for row in result["folders"])
        if unused and _agreed(settings, result):
            for path in unused:
                _remove(path)
            result["removed"] = True
    return result


def show(results: list[dict[str, Any]]) -> None:
    """Print the folders with their sizes."""
    for result in results:
        if not result["folders"]:
            print("nothing to remove: runs need all that is built")
            continue
        title = "Removed" if result["removed"] else "Not removed"
        rows = [[row["folder"], byte_size(row["bytes"])] for row in result["folders"]]
        show_table(title, ["folder", "size"], [*rows, ["in all", byte_size(result["bytes"])]])


def _existing(runs_dir: str) -> Path:
    """The folder of runs; where it is missing, perhaps by a typing mistake, nothing would seem to be needed."""
    if not Path(runs_dir).is_dir():
        raise UsageError(
            f"runs_dir={runs_dir} does not exist; name the folder of the runs whose data stays, or make an empty one"
        )
    return Path(runs_dir)


def _needed(runs_dir: Path) -> set[str]:
    """What the runs were made of, as folders in data_dir: tokens/KEY, stages/NAME-KEY, tokenizers/KEY."""
    needed: set[str] = set()
    for path in sorted(file for depth in ("*", "*/*") for file in runs_dir.glob(f"{depth}/data_manifest.json")):
        try:
            manifest = read_json(path)
            needed |= {f"tokens/{manifest['key']}", *(str(name) for name in manifest["made_of"])}
        except (DataError, KeyError, TypeError) as error:
            why = "does not say what it was made of" if isinstance(error, KeyError) else "is damaged"
            raise DataError(
                f"{path} {why}, so nobody knows what the run needs, and nothing is removed; "
                f"remove the run {path.parent} first, or by hand what you know that it does not need"
            ) from error
    return needed


def _agreed(settings: DataCleanConfig, result: dict[str, Any]) -> bool:
    if settings.yes:
        return True
    count = len(result["folders"])
    what = f"{count} folder{'s' if count > 1 else ''}, {byte_size(result['bytes'])}"
    if not sys.stdin.isatty():
        raise UsageError(f"{what} can be removed from {settings.data_dir}; to remove them, add yes=true")
    for row in result["folders"]:
        say(f"{byte_size(row['bytes']):>10}  {row['folder']}")
    print(f"remove {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_symlink() or file.is_file())


def _remove(path: Path) -> None:
    """Remove a folder, its manifest first: what is half removed counts as not built."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)
