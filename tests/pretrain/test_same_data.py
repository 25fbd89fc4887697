"""A rank that sees other data than the rest is named, on every rank, before the first step."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import ROOT
from tiny_run import make_config, make_documents

from configs.schema import Config
from pretrain.stage import prepare

PROGRAM = """
import datetime, json, sys
from pathlib import Path
import torch, torch.distributed as dist
from configs.errors import InputError
from configs.schema import Config
from pretrain.data.same_data import open_same_tokens
from pretrain.zero import Ranks

rank, world, port, config, folder = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world,
    timeout=datetime.timedelta(seconds=60))
ranks = Ranks(rank, world, 0, 1, torch.device("cpu"))  # each the first one of a host of its own
try:
    open_same_tokens(Config.model_validate_json(config), Path(folder), ranks)
    print(json.dumps([]))
except InputError as error:
    print(json.dumps(error.lines))
dist.destroy_process_group()
"""


def ask(*places: tuple[Config, Path]) -> list[list[str]]:
    """What each rank says, each with its own config and run folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), DS_ACCELERATOR="cpu")
    processes = []
    for rank, (config, folder) in enumerate(places):
        words = [rank, len(places), port, config.model_dump_json(), folder / "pretrain" / "tokens"]
        command = [sys.executable, "-c", PROGRAM, *map(str, words)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return [json.loads(text) for text in said]


@pytest.mark.thorough
def test_a_rank_with_other_shards_a_damaged_one_or_another_seed_is_named_on_all_ranks(
    run_folder: Path, tmp_path: Path
) -> None:
    host = socket.gethostname()
    config = make_config()
    prepare(config, run_folder)
    same = tmp_path / "same"
    shutil.copytree(run_folder / "pretrain", same / "pretrain")
    assert ask((config, run_folder), (config, same)) == [[], []]

    damaged = tmp_path / "damaged"
    shutil.copytree(run_folder / "pretrain", damaged / "pretrain")
    file = next((damaged / "pretrain" / "tokens").rglob("ko.train.ids"))
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    first, second = ask((config, run_folder), (config, damaged))
    (line,) = first
    assert first == second
    assert line.startswith(f"rank 1 on {host}: {file}: its bytes are not those that were written")

    other = tmp_path / "other"
    (other / "dedup").mkdir(parents=True)
    make_documents(other / "dedup" / "documents", count=60)
    (other / "tokenizer").symlink_to(run_folder / "tokenizer")
    prepare(config, other)
    for said in ask((config, run_folder), (config, same), (config, other)):
        (line,) = said
        assert line.startswith(
            f"rank 2 on {host}: the manifest of the token shards differs from that of rank 0 on "
        )

    seed = config.model_copy(update={"seed": 8})
    first, second = ask((config, run_folder), (seed, same))
    assert first == second and "rank 1" in first[0] and "the config (seed and settings)" in first[0]
