"""What runs on every machine of a cluster, whoever starts it: ssh, srun, a pod.

    python -m launch.clusters.node train --run FOLDER --rendezvous HOST:PORT --job ID --nodes MIN:MAX \\
        --address MINE [--ranks N] [--threads N] [--interface CARD] [--wait SECONDS] [--attached]
    python -m launch.clusters.node ray (--head HOST:PORT | --join HOST:PORT) --address MINE [--cpus N]
    python -m launch.clusters.node check --run FOLDER --token WORD [--port N]

The words are the interface: a machine is told nothing but them, the run folder, and its environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "MALMOI "  # before the answer of `check`: a shell's start-up files may print, too


def check(words: Sequence[str]) -> int:
    """Print what this machine is and has, as one line of JSON."""
    import argparse

    from launch.clusters.identity import facts

    parser = argparse.ArgumentParser(prog="node check")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--port", type=int)
    said = parser.parse_args(words)
    print(MARK + json.dumps(facts(said.run, said.token, said.port)), flush=True)
    return 0


def main(words: Sequence[str]) -> int:
    kind, rest = (words[0], words[1:]) if words else ("", ())
    if kind == "check":
        return check(rest)
    if kind == "train":
        from launch.clusters.agent import run

        return run(rest)
    if kind == "ray":
        from launch.clusters.ray_node import run as ray

        return ray(rest)
    print("usage: python -m launch.clusters.node train|ray|check …", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
