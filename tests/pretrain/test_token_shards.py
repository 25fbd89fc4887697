"""Documents → token shards: whole, the same for any number of workers, and checked when opened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import ROOT
from tiny_run import ENGLISH, SCHEMA, WORDS, dialogue, document, sentence

from configs.errors import InputError
from pretrain.data import digests, input_shares, token_shards
from pretrain.data.encode import Encoder
from pretrain.data.input_shares import shares
from pretrain.data.token_shards import write_tokens
from pretrain.data.tokens import Tokens, open_tokens
from tokenizer.chat import render_dialogue
from tokenizer.load import load_tokenizer


def write(documents: Path, tokenizer: Path, folder: Path, **options: Any) -> Tokens:
    made = load_tokenizer(tokenizer)
    write_tokens([documents], made, tokenizer / "tokenizer.json", folder, **options)
    return open_tokens(folder, verify=True)


def test_every_document_is_stored_between_begin_and_end_and_decodes_to_its_text(
    tokens: Tokens, tiny_tokenizer: Path, tiny_documents: Path
) -> None:
    from dedup.documents import read_documents

    tokenizer = load_tokenizer(tiny_tokenizer)
    texts = [
        text
        for batch in read_documents(tiny_documents, split="train", sources=["ko"])
        for text in batch.column("text").to_pylist()
    ]
    stored = tokens.sets["ko", "train"]
    assert stored.documents == len(texts)
    assert stored.byte_counts().tolist() == [len(text.encode()) for text in texts]
    for number, text in enumerate(texts):
        ids = stored.ids(number).tolist()
        assert (ids[0], ids[-1]) == (tokens.begin, tokens.end)
        assert tokenizer.decode(ids[1:-1]) == text


def test_shards_that_are_there_are_not_written_again(
    tokens: Tokens, tiny_tokenizer: Path, tiny_documents: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    first = sorted(tiny_documents.glob("*.parquet"))[:1]
    write_tokens(first, tokenizer, tiny_tokenizer / "tokenizer.json", tmp_path)
    (tmp_path / "shards" / "half.tmp").mkdir()
    done = next((tmp_path / "shards").glob("*/shard.json"))
    before = done.stat().st_mtime_ns
    write_tokens([tiny_documents], tokenizer, tiny_tokenizer / "tokenizer.json", tmp_path)
    assert done.stat().st_mtime_ns == before
    assert open_tokens(tmp_path, verify=True).digest == tokens.digest


def test_a_changed_byte_in_a_shard_is_refused_by_name(
    tiny_tokenizer: Path, tiny_documents: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    write_tokens([tiny_documents], tokenizer, tiny_tokenizer / "tokenizer.json", tmp_path)
    file = next((tmp_path / "shards").rglob("ko.train.ids"))
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"ko\.train\.ids: its bytes are not those"):
        open_tokens(tmp_path, verify=True)


def test_control_tokens_written_in_a_text_stay_text(tiny_tokenizer: Path, tmp_path: Path) -> None:
    row = document(0, "ko", "봄 <|eot_id|> 여름")
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), tmp_path / "one.parquet")
    tokenizer = load_tokenizer(tiny_tokenizer)
    write_tokens(
        [tmp_path / "one.parquet"], tokenizer, tiny_tokenizer / "tokenizer.json", tmp_path / "t"
    )
    ids = open_tokens(tmp_path / "t").sets["ko", "train"].ids(0).tolist()
    assert tokenizer.get_vocab()["<|eot_id|>"] not in ids
    assert tokenizer.decode(ids[1:-1]) == "봄 <|eot_id|> 여름"


def test_a_source_that_cannot_name_a_file_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    rows = [document(0, "web/ko", "봄 여름")]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "one.parquet")
    tokenizer = load_tokenizer(tiny_tokenizer)
    with pytest.raises(InputError, match=r"one\.parquet: the source 'web/ko' .* without '/'"):
        write_tokens(
            [tmp_path / "one.parquet"], tokenizer, tiny_tokenizer / "tokenizer.json", tmp_path / "t"
        )


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the shards and the manifest; not what was noted about this machine's files."""
    files = [folder / "manifest.json", *sorted((folder / "shards").rglob("*"))]
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.is_file() and file.name != "verified.json"
    }


def many_row_groups(folder: Path, files: int = 2, groups: int = 40) -> Path:
    """Files of many small row groups, in which sources and splits stand mixed."""
    chance = random.Random(11)
    folder.mkdir()
    number = 0
    for file in range(files):
        with pq.ParquetWriter(folder / f"{file}.parquet", SCHEMA) as out:
            for _ in range(groups):
                rows = []
                for _ in range(chance.randint(1, 9)):
                    source, words = chance.choice([("ko", WORDS), ("en", ENGLISH)])
                    rows.append(document(number, source, sentence(chance, words), language=source))
                    number += 1
                rows.append(dialogue(number, chance))
                out.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return folder


def test_one_large_file_is_shared_out_and_any_number_of_workers_writes_the_same_bytes(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = many_row_groups(tmp_path / "documents")
    monkeypatch.setattr(input_shares, "SHARE", 4096)
    monkeypatch.setattr(token_shards, "WORTH", 4096)
    assert len(shares(documents / "0.parquet")) > 4
    alone = write(documents, tiny_tokenizer, tmp_path / "1", workers=1)
    write(documents, tiny_tokenizer, tmp_path / "3", workers=3)
    assert content(tmp_path / "1") == content(tmp_path / "3")
    rows = pq.read_table(documents).to_pylist()
    for source, split in (("ko", "train"), ("en", "heldout")):
        texts = [r["text"] for r in rows if (r["source"], r["split"]) == (source, split)]
        stored = alone.sets[source, split]
        assert stored.byte_counts().tolist() == [len(text.encode()) for text in texts]
        tokenizer = load_tokenizer(tiny_tokenizer)
        assert [
            tokenizer.decode(stored.ids(n)[1:-1].tolist()) for n in range(stored.documents)
        ] == texts


def test_dialogues_are_stored_as_the_chat_format_renders_them(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    chance = random.Random(3)
    rows = [dialogue(n, chance) for n in range(40)]
    rows[0]["segments"][1]["text"] = " <|eot_id|> 봄\n\n여름 "
    tokenizer = load_tokenizer(tiny_tokenizer)
    made = Encoder.of(tokenizer).dialogues([row["segments"] for row in rows])
    assert made.mask is not None
    for number, row in enumerate(rows):
        ids, mask = render_dialogue(tokenizer, row["segments"])
        where = slice(made.starts[number], made.starts[number + 1])
        end = tokenizer.get_vocab()["<|end_of_text|>"]
        assert made.ids[where].tolist() == [*ids, end]
        assert made.mask[where].tolist() == [*mask, 0]


def test_memory_is_held_for_a_batch_of_bounded_text_and_not_for_a_row_group(
    tmp_path: Path,
) -> None:
    rows = [document(n, "ko", "봄 " * 300_000) for n in range(12)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "one.parquet")
    (share,) = shares(tmp_path / "one.parquet")
    sizes = [batch["text"].nbytes for batch in share.batches()]
    assert len(sizes) > 3 and max(sizes) < input_shares.TEXT


def test_a_missing_file_and_a_short_one_are_refused_with_one_line_each(
    tiny_tokenizer: Path, tiny_documents: Path, tmp_path: Path
) -> None:
    write(tiny_documents, tiny_tokenizer, tmp_path)
    gone = next((tmp_path / "shards").rglob("en.train.offsets"))
    gone.unlink()
    short = next((tmp_path / "shards").rglob("dialogue.train.mask"))
    short.write_bytes(short.read_bytes()[:-1])
    with pytest.raises(InputError) as raised:
        open_tokens(tmp_path, verify=True)
    first, second = sorted(raised.value.lines, key=lambda line: "missing" not in line)
    assert str(gone) in first and "is missing" in first and gone.parent.name in first
    assert str(short) in second and "not those that were written" in second


def test_shards_are_hashed_once_for_every_copy_of_them(
    tiny_tokenizer: Path,
    tiny_documents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tiny_documents, tiny_tokenizer, tmp_path / "here")
    hashed: list[Path] = []
    real = digests.sha256
    monkeypatch.setattr(digests, "sha256", lambda path: hashed.append(path) or real(path))
    open_tokens(tmp_path / "here", verify=True)
    assert not hashed  # written here: their digests were computed while they were written
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    open_tokens(tmp_path / "copy", verify=True)
    files = [p for p in (tmp_path / "copy" / "shards").glob("*/*") if p.suffix != ".json"]
    assert sorted(hashed) == sorted(files)
    hashed.clear()
    open_tokens(tmp_path / "copy", verify=True)
    assert not hashed
    state = files[0].stat()
    content = bytearray(files[0].read_bytes())
    content[0] ^= 1
    files[0].write_bytes(content)
    os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(InputError, match=files[0].name):
        open_tokens(tmp_path / "copy", verify=True)
    assert hashed == [files[0]]


@pytest.mark.thorough
def test_preparations_killed_at_any_moment_go_on_and_end_with_the_same_bytes(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    documents = many_row_groups(tmp_path / "documents", files=6, groups=400)
    script = (
        "import sys; from pathlib import Path\n"
        "from pretrain.data import input_shares, token_shards\n"
        "from tokenizer.load import load_tokenizer\n"
        "input_shares.SHARE = token_shards.WORTH = 20_000\n"
        "documents, tokenizer, out, workers = sys.argv[1:]\n"
        "if __name__ == '__main__':\n"
        "    token_shards.write_tokens([documents], load_tokenizer(tokenizer),\n"
        "        Path(tokenizer) / 'tokenizer.json', Path(out), workers=int(workers))\n"
    )
    program = tmp_path / "program.py"
    program.write_text(script)

    def start(out: Path, workers: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, program, documents, tiny_tokenizer, out, str(workers)]
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        return subprocess.Popen(command, env=environment)

    chance = random.Random(4)
    assert start(tmp_path / "whole", 1).wait() == 0
    kills = 0
    while True:
        process = start(tmp_path / "killed", 2)
        shards = tmp_path / "killed" / "shards"
        seen = len(list(shards.glob("*/shard.json")))
        while process.poll() is None and len(list(shards.glob("*/shard.json"))) <= seen + 3:
            time.sleep(0.01)
        if process.poll() is not None or kills == 5:
            break
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.wait() == 0 and kills >= 3
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "shards").glob("*.tmp"))
