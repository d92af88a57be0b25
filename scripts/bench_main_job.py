"""The main job, `pretrain train` with its defaults in an empty folder: seconds and peak memory of all its processes.

python scripts/bench_main_job.py [OVERRIDE ...]
"""

import json
import subprocess
import sys
import tempfile
import time

from processes import Peak


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


if __name__ == "__main__":
    main()
