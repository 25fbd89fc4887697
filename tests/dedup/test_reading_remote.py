"""Remote stores read like folders: a real local S3 server, and what it refuses told in one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from configs.schema import Dedup, Source
from dedup import paths
from dedup.read import plan, read

TEXT = "산 너머 마을에는 오래된 우물이 하나 있다. 여름이면 아이들이 그 둘레에 모여 앉았다."
LINE = json.dumps({"text": TEXT}, ensure_ascii=False).encode() + b"\n"


def rows_of(path: str, **more: Any) -> list[dict[str, Any]]:
    dedup = Dedup(sources=[Source(name="s", paths=[path], **more)])
    batches = [batch for task in plan(dedup) for batch in read(task, dedup)]
    assert not [failure for batch in batches for failure in batch.failed]
    return [row for batch in batches for row in batch.batch.to_pylist()]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server on this machine."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    for key, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    paths._store.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="corpus")
    yield "corpus"
    paths._store.cache_clear()


def put(name: str, data: bytes) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket="corpus", Key=name, Body=data)


def test_files_of_a_bucket_read_like_files_of_a_folder(bucket: str, tmp_path: Path) -> None:
    import zstandard

    pq.write_table(pa.table({"text": [TEXT] * 3}), tmp_path / "c.parquet")
    put("ko/a.jsonl", LINE * 2)
    put("ko/deep/b.jsonl.zst", zstandard.ZstdCompressor().compress(LINE * 2))
    put("ko/c.parquet", (tmp_path / "c.parquet").read_bytes())
    put("ko/picture.png", b"x")
    ids = [row["id"] for row in rows_of("s3://corpus/ko")]
    assert ids == [
        "s/a.jsonl#1", "s/a.jsonl#2", "s/c.parquet#1", "s/c.parquet#2", "s/c.parquet#3",
        "s/deep/b.jsonl.zst#1", "s/deep/b.jsonl.zst#2",
    ]  # fmt: skip
    assert [row["id"] for row in rows_of("s3://corpus/ko/*.jsonl")] == [
        "s/a.jsonl#1",
        "s/a.jsonl#2",
    ]
    assert rows_of("s3://corpus/ko/a.jsonl")[0]["text"] == TEXT


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://no-such-bucket/ko", "bucket"),
        ("s3://no-such-bucket/ko/*.jsonl", "bucket"),
        ("s3://corpus/nothing/*.jsonl", "matches no file"),
        ("nosuchstore://x/a.jsonl", "is no store that fsspec knows"),
    ],
)
def test_what_is_not_there_is_one_line(bucket: str, path: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        rows_of(path)
    assert len(error.value.lines) == 1
    assert error.value.lines[0].startswith("dedup.sources.0.paths: ")
    assert words in error.value.lines[0]


def test_no_credentials_and_no_server_are_one_line_each(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    paths._store.cache_clear()
    with pytest.raises(InputError) as error:
        rows_of("s3://corpus/ko")
    assert "the store refuses" in error.value.lines[0]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    paths._store.cache_clear()
    with pytest.raises(InputError) as error:
        rows_of("s3://corpus/ko")
    assert len(error.value.lines) == 1
