"""The main job, `pretrain train` with its defaults in an empty folder: seconds and peak memory of all its processes.

python scripts/bench_main_job.py [OVERRIDE ...]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pretrain", "train", "format=json", *sys.argv[1:]]
        started = time.perf_counter()
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        peak = Peak(process.pid)
        out, _ = process.communicate()
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(process.returncode)
        result = json.loads(out)
        print(f"whole job            {seconds:8.1f} s       (at most 180)")
        print(f"peak memory          {peak.bytes / 1e9:8.2f} GB      (at most 2)")
        speed, validation = result["tokens"] / result["seconds"], result["validation"]
        print(f"training             {result['seconds']:8.1f} s       {speed:,.0f} tokens/s")
        print(f"validation loss      {validation['loss']:8.4f} nats    {validation['bits_per_byte']:.4f} bits per byte")
        print(f"references           {json.dumps(result['references'])}")


class Peak:
    """The highest sum of proportional set sizes of a process and its children, sampled every 0.1 s (Linux)."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while Path(f"/proc/{self._pid}").exists():
            self.bytes = max(self.bytes, sum(map(memory, family(self._pid))))
            time.sleep(0.1)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def memory(pid: int) -> int:
    """Proportional set size in bytes: shared pages count by their share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
