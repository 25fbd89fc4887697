"""What `malmoi launch` costs and how soon it recovers, over two hosts in namespaces on this machine.

    sudo python tests/benchmarks/launching.py DIR [--only start|kill|speed|ray …]

start: seconds from the command to the first step, `malmoi launch` over two hosts beside bare torchrun
(c10d, the same ranks, started on both by hand); prepared runs, `--times` of each in turn, medians.
kill: seconds from a rank's SIGKILL to the next step beyond what was done. speed: tokens/s of two
hosts of one rank beside one host of two ranks. ray: dedup over two nodes of one core beside local
processes with as many. All of it shares this machine's cores, so only ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_run import WORDS, make_config, make_documents, make_tokenizer, sentence  # noqa: E402
from two_hosts import TwoHosts, two_hosts  # noqa: E402

from configs.load import dump  # noqa: E402
from launch.lineage import Lineage  # noqa: E402
from launch.run import decide  # noqa: E402

MALMOI = [sys.executable, "-m", "launch.cli"]
BASE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}


def steps(folder: Path) -> list[dict[str, Any]]:
    path = folder / "pretrain" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for line in lines if line.endswith("}") if "loss" in (entry := json.loads(line))]


def cluster(hosts: TwoHosts) -> str:
    path = hosts.shared / "cluster.yaml"
    keys = {"kind": "hosts", "hosts": ["node0 slots=1", "node1 slots=1"], "wait_seconds": 5}
    path.write_text(yaml.safe_dump(keys | {"ssh": ["-F", str(hosts.ssh_config)]}))
    return str(path)


def prepared(hosts: TwoHosts, name: str, **keys: Any) -> tuple[str, Path]:
    """A run whose token shards and start of training are written."""
    from pretrain.stage import prepare

    made, folder = hosts.shared / "made", hosts.shared / name
    if not made.exists():
        make_tokenizer(made / "tokenizer")
        make_documents(made / "documents", 600)
    given: dict[str, Any] = {
        "documents": [str(made / "documents")],
        "tokenizer": str(made / "tokenizer"),
        "phases": [{"name": "text", "tokens": 9_000_000, "lr": 1e-3, "mixture": {"ko": 1.0}}],
        "checkpoint": {"every_steps": 20, "keep": 2},
        "evaluate": {"every_steps": 100_000, "sequences": 4},
    }
    config = make_config(**given | keys).model_copy(update={"dir": str(folder)})
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "logs").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    prepare(config, folder)
    lineage = Lineage(folder)  # else the launch takes it for another's, and makes all of it again
    decision = decide(config, lineage, "pretrain")
    lineage.begin("pretrain", decision.keys, decision.inputs)
    path = hosts.shared / f"{name}.yaml"
    path.write_text(dump(config), encoding="utf-8")
    return str(path), folder


def launched(hosts: TwoHosts, config: str) -> list[subprocess.Popen[Any]]:
    words = [*MALMOI, "launch", cluster(hosts), "pretrain", config]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [hosts.popen(0, words, **quiet)]


def bare(hosts: TwoHosts, folder: Path, port: int) -> list[subprocess.Popen[Any]]:
    """torchrun as one would start it on each host, with the same environment."""
    from launch.clusters.torchrun import rank_environment

    started = []
    for number, address in enumerate(hosts.addresses):
        more = {"GLOO_SOCKET_IFNAME": hosts.card, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        words += ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", f"job{port}"]
        words += ["--rdzv-endpoint", f"{hosts.addresses[0]}:{port}", "--local-addr", address]
        started.append(
            hosts.popen(
                number,
                [*words, "-m", "launch.rank", str(folder)],
                env=rank_environment(1, 1, on_cpu=True, more=more),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    return started


def wait_for_step(folder: Path, step: int, running: list[subprocess.Popen[Any]]) -> float:
    begun = time.monotonic()
    while len(steps(folder)) < step:
        time.sleep(0.02)
        ended = [process.returncode for process in running if process.poll() is not None]
        if ended:
            raise SystemExit(f"ended with {ended} before step {step}; see {folder / 'logs'}")
        if time.monotonic() - begun > 180:
            raise SystemExit(f"no step {step} within three minutes; see {folder / 'logs'}")
    return time.monotonic() - begun


def end(processes: list[subprocess.Popen[Any]], folder: Path) -> None:
    """Kill what was started, and wait until agents have noticed and no rank is left to be in the way."""
    for process in processes:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.wait()
    deadline = time.monotonic() + 120
    while any(names(process, folder) for process in psutil.process_iter()):
        if time.monotonic() > deadline:
            raise SystemExit(f"ranks of {folder} do not end")
        time.sleep(0.2)


def measure_start(hosts: TwoHosts, times: int) -> None:
    taken: dict[str, list[float]] = {"torchrun": [], "launch": []}
    for number in range(times):
        for kind in taken:
            config, folder = prepared(hosts, f"start-{kind}-{number}")
            begun = time.monotonic()
            running = (
                launched(hosts, config) if kind == "launch" else bare(hosts, folder, 29500 + number)
            )
            wait_for_step(folder, 1, running)
            taken[kind].append(time.monotonic() - begun)
            end(running, folder)
            print(f"  {kind}: {taken[kind][-1]:.1f} s", flush=True)
    one, two = (statistics.median(values) for values in taken.values())
    print(f"start to first step: torchrun {one:.1f} s, launch {two:.1f} s, {two / one:.2f}×")


def measure_kill(hosts: TwoHosts, times: int) -> None:
    config, folder = prepared(hosts, "kill", max_restarts=times + 1)
    running = launched(hosts, config)
    taken = []
    wait_for_step(folder, 25, running)
    for _ in range(times):
        victims = [p for p in psutil.process_iter() if is_rank(p, folder)]
        done = len(steps(folder))
        victims[-1].kill()
        taken.append(wait_for_step(folder, done + 1, running))
        wait_for_step(folder, done + 25, running)
    end(running, folder)
    said = ", ".join(f"{seconds:.1f}" for seconds in taken)
    print(f"kill to next good step: {said} s")


def names(process: psutil.Process, folder: Path) -> bool:
    """Whether a process was started with this run folder: an agent, torchrun, a rank."""
    try:
        return process.is_running() and str(folder) in process.cmdline()
    except psutil.Error:
        return False


def is_rank(process: psutil.Process, folder: Path) -> bool:
    try:
        return names(process, folder) and "RANK" in process.environ()
    except psutil.Error:
        return False


def measure_speed(hosts: TwoHosts) -> None:
    from tiny_run import BASE as TINY

    keys = {"base": TINY | BASE, "sequence_length": 256, "global_batch_tokens": 4096}
    figures = {}
    for kind in ("one host", "two hosts"):
        config, folder = prepared(hosts, kind.replace(" ", "-"), processes=2, **keys)
        if kind == "two hosts":
            running = launched(hosts, config)
        else:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running = [hosts.popen(0, [*MALMOI, "pretrain", config], **quiet)]
        wait_for_step(folder, 25, running)
        end(running, folder)
        figures[kind] = statistics.median(e["tokens_per_second"] for e in steps(folder)[5:])
    one, two = figures.values()
    print(f"tokens/s: one host {one:,.0f}, two hosts {two:,.0f}, {two / one:.2f}×")


def write_corpus(folder: Path, files: int = 8, documents: int = 6_000) -> None:
    """Korean sentences of one vocabulary, about 40 MB."""
    chance = random.Random(3)
    folder.mkdir()
    for number in range(files):
        with (folder / f"{number}.jsonl").open("w", encoding="utf-8") as handle:
            for _ in range(documents):
                text = " ".join(sentence(chance, WORDS) for _ in range(3))
                handle.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def measure_ray(hosts: TwoHosts) -> None:
    write_corpus(hosts.shared / "corpus")
    taken = {}
    for kind in ("local", "hosts"):
        keys = {
            "name": "ray",
            "dir": str(hosts.shared / f"dedup-{kind}"),
            "dedup": {
                "sources": [{"name": "web", "paths": [str(hosts.shared / "corpus" / "*")]}],
                "shard": "2MB",
                "workers": 2 if kind == "local" else "auto",
            },
        }
        path = hosts.shared / f"dedup-{kind}.yaml"
        path.write_text(yaml.safe_dump(keys))
        words = ["launch", cluster(hosts)] if kind == "hosts" else []
        begun = time.monotonic()
        done = hosts.malmoi(0, *words, "dedup", str(path), timeout=1200)
        if done.returncode:
            raise SystemExit(done.stderr)
        taken[kind] = time.monotonic() - begun
    one, two = taken.values()
    print(f"dedup: local {one:.1f} s, Ray on two nodes {two:.1f} s, {two / one:.2f}×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=["start", "kill", "speed", "ray"])
    parser.add_argument("--times", type=int, default=3)
    said = parser.parse_args()
    wanted = said.only or ["start", "kill", "speed", "ray"]
    with two_hosts(said.folder.resolve()) as hosts:
        if "start" in wanted:
            measure_start(hosts, said.times)
        if "kill" in wanted:
            measure_kill(hosts, said.times)
        if "speed" in wanted:
            measure_speed(hosts)
        if "ray" in wanted:
            measure_ray(hosts)


if __name__ == "__main__":
    main()
