"""Read → deduplicate → write, and the same with all filters: ours beside datatrove and text-dedup.

    python -m venv /tmp/peers   # as in signatures.py, with spacy for datatrove's filters
    python -m venv /tmp/text-dedup && /tmp/text-dedup/bin/pip install text-dedup==0.4.0
    python tests/benchmarks/end_to_end.py --peers /tmp/peers/bin/python \\
        [--text-dedup /tmp/text-dedup/bin/python] [--megabytes 30] [--rounds 3]

Every contender is one command with one worker on one core over the same JSONL file (documents as
volume.py makes them), from its start to the last file written: wall time, imports and cached kernels
included, median of the rounds; a round goes through all before the next. Settings are the nearest
there are: 128 permutations, 16 bands of 8 (datatrove, text-dedup) and 25 of 5 (ours); words of five
for the peers, five characters for ours, which is more work.
Starting takes our command a few seconds (compiled kernels are loaded), which on 30 MB is most of its
time: the rows named "×10" give it ten times the file, and the ratio there is of MB/s.
`filters` are Gopher quality and repetition, C4 and FineWeb for datatrove, with its default English word
splitter (the Korean one fails with today's kiwipiepy) and without its language filter, whose model is
a download; for ours everything that is on by default, language and personal data included.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
name: end-to-end
dedup:
  sources: [{{name: web, paths: [{path}]}}]
  workers: 1
{extra}
"""


def datatrove(path: Path, folder: Path, filters: bool) -> None:
    """datatrove's four stages, in its local executor."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    class Splitter:
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)
    signature = MinhashDedupSignature(str(folder / "signatures"), config)
    signature.__dict__["word_tokenizer"] = Splitter()
    text = str(path.parent)
    if filters:
        chain = [
            GopherRepetitionFilter(),
            GopherQualityFilter(min_stop_words=0),  # its stop words are English
            C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=0),
            FineWebQualityFilter(),
        ]
        steps = [JsonlReader(text, glob_pattern=path.name), *chain]
        steps.append(JsonlWriter(str(folder / "filtered"), compression=None))
        LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=str(folder / "log0")).run()
        text = str(folder / "filtered")
        if not any(path.stat().st_size for path in Path(text).glob("*.jsonl")):
            return  # everything was filtered: its time is that of the filters alone
    reader = JsonlReader(text, glob_pattern="*.jsonl")
    stages = [
        [reader, signature],
        [MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)],
        [MinhashDedupCluster(str(folder / "buckets"), str(folder / "removed"), config=config)],
        [
            reader,
            MinhashDedupFilter(str(folder / "removed")),
            JsonlWriter(str(folder / "out"), compression="gzip"),
        ],
    ]
    for number, steps in enumerate(stages, 1):
        tasks = config.num_buckets if number == 2 else 1
        logs = str(folder / f"log{number}")
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=logs).run()


def command(name: str, path: Path, folder: Path, options: argparse.Namespace) -> list[str] | None:
    """The command line of a contender; None where its Python was not given."""
    if name.startswith("malmoi"):
        config = folder / "config.yaml"
        extra = "" if "filters" in name else "  filters: none\n  pii: keep"
        config.write_text(CONFIG.format(path=path, extra=extra))
        run = f"dir={folder / 'run'}"
        return [sys.executable, "-m", "launch.cli", "dedup", str(config), run]
    if name.startswith("datatrove"):
        if not options.peers:
            return None
        arguments = ["--contender", name, "--file", str(path), "--folder", str(folder)]
        return [options.peers, __file__, *arguments]
    if not options.text_dedup:
        return None
    return [
        options.text_dedup, "-m", "text_dedup.minhash", "--path", "json", "--data_files", str(path),
        "--split", "train", "--cache_dir", str(folder / "cache"), "--output", str(folder / "out"),
        "--column", "text", "--batch_size", "10000", "--num_perm", "128", "--b", "16", "--r", "8",
        "--ngram", "5", "--num_proc", "1",
    ]  # fmt: skip


CONTENDERS = (
    "malmoi", "malmoi ×10", "datatrove", "text-dedup",
    "malmoi filters", "malmoi filters ×10", "datatrove filters",
)  # fmt: skip


def _file(path: Path, megabytes: float) -> Path:
    """A JSONL file of volume.py's documents."""
    import orjson
    import volume

    path.parent.mkdir()
    size = 0
    with path.open("wb") as out:
        for number, text in enumerate(volume.documents(seed=5)):
            size += out.write(orjson.dumps({"id": f"doc-{number}", "text": text}) + b"\n")
            if size > megabytes * 1e6:
                return path
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="Python with datatrove")
    parser.add_argument("--text-dedup", help="Python with text-dedup")
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        datatrove(options.file, options.folder, options.contender.endswith("filters"))
        return
    import volume

    if not volume.DATA.is_dir():
        sys.exit(f"skipped: {volume.DATA} is not there")
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    for name in ("OMP", "OPENBLAS", "RAYON", "MKL"):
        environment[f"{name}_NUM_THREADS"] = "1"
    core = min(os.sched_getaffinity(0))
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as scratch:
        small = _file(Path(scratch) / "small" / "web.jsonl", options.megabytes)
        large = _file(Path(scratch) / "large" / "web.jsonl", 10 * options.megabytes)
        for turn in range(options.rounds + 1):  # the first warms caches and is not counted
            for name in CONTENDERS:
                folder = Path(scratch) / "work"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                path = large if name.endswith("×10") else small
                line = command(name, path, folder, options)
                if line is None or (turn == 0 and not name.startswith("malmoi")):
                    continue
                begin = time.monotonic()
                done = subprocess.run(
                    line,
                    env=environment,
                    capture_output=True,
                    text=True,
                    preexec_fn=lambda: os.sched_setaffinity(0, {core}),
                )
                if done.returncode:
                    print(f"{name}: {done.stderr.strip()[-500:]}", file=sys.stderr)
                elif turn:
                    seconds[name].append((time.monotonic() - begin) * 1e6 / path.stat().st_size)
    print(f"{options.megabytes:g} MB of JSONL, one worker; median of {options.rounds}")
    for name, spent in seconds.items():
        if not spent:
            continue
        rate = 1 / statistics.median(spent)
        ratios = ""
        for ours in ("malmoi", "malmoi ×10"):
            key = ours.replace("malmoi", "malmoi filters") if "filters" in name else ours
            if seconds[key]:
                ratios += f"   {key} is {1 / statistics.median(seconds[key]) / rate:5.1f} × as fast"
        print(f"{name:20} {rate:7.2f} MB/s{'' if name.startswith('malmoi') else ratios}")


if __name__ == "__main__":
    main()
