"""A run's index: what it holds, opened by datasketch, refused where it is not whole."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from datasketch import LeanMinHash, MinHash
from near_corpus import edited, passage, put, rows, settings

from configs.errors import InputError
from configs.progress import Progress
from dedup.copies.digest import digest
from dedup.copies.index import Index, index_folder, manifest_path
from dedup.copies.minhash import hash_shingle
from dedup.stage import run


def corpus(folder: Path) -> dict[str, str]:
    rng = random.Random(5)
    texts: dict[str, str] = {}
    for number in range(40):
        texts[f"base-{number:02}"] = base = passage(rng)
        if number % 4 == 0:
            texts[f"copy-{number:02}"] = base.replace(" ", "\n")
        if number % 4 == 1:
            texts[f"near-{number:02}"] = edited(rng, base)
        if number % 4 == 2:
            texts[f"like-{number:02}"] = edited(rng, base, 12)
    put(folder / "in.jsonl", texts)
    return texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("index")
    corpus(base)
    run(settings(base / "in.jsonl"), base / "run")
    return base / "run"


def test_the_index_has_every_kept_document_in_the_order_of_the_documents(finished: Path) -> None:
    index = Index.open(finished)
    documents = rows(finished, "documents")
    assert index.ids.to_pylist() == list(documents)
    assert index.documents == len(documents) > 40
    for row, (name, document) in enumerate(documents.items()):
        assert index.id(row) == name
        assert index.row_of(document["text"].replace(" ", " \n ")) == row
    assert index.row_of("없는 글") == -1
    read = index.read([7, 3, 44, 3], ["id", "text"])
    assert [record["text"] for record in read] == [
        list(documents.values())[row]["text"] for row in (7, 3, 44, 3)
    ]


def test_a_signature_opens_as_a_lean_minhash_equal_to_datasketchs_own(finished: Path) -> None:
    index = Index.open(finished)
    for row, document in enumerate(rows(finished, "documents").values()):
        text = " ".join(document["text"].split())
        theirs = MinHash(num_perm=128, scheme="affine32", hashfunc=hash_shingle)
        theirs.update_batch([text[at : at + 5].encode() for at in range(len(text) - 4)])
        ours = index.lean_minhash(row)
        assert isinstance(ours, LeanMinHash)
        assert np.array_equal(ours.hashvalues, theirs.hashvalues)
        assert ours.jaccard(theirs) == 1.0


def test_members_that_share_a_band_are_those_that_brute_force_finds(finished: Path) -> None:
    (pool,) = Index.open(finished).pools
    signatures = np.array(pool.signatures)
    parts = signatures[:, :125].reshape(len(signatures), 25, 5)
    for at in range(0, len(signatures), 5):
        found, equal = pool.alike(signatures[at])
        same = np.flatnonzero((parts == parts[at]).all(axis=2).any(axis=1))
        assert sorted(found.tolist()) == same.tolist()
        assert found[0] == at and equal[0] == 128
        assert equal.tolist() == [(signatures[m] == signatures[at]).sum() for m in found]


def test_the_index_opens_as_a_datasketch_lsh_in_memory(finished: Path) -> None:
    index = Index.open(finished)
    lsh = index.lsh()
    assert (lsh.b, lsh.r) == (25, 5)
    for row in range(0, index.documents, 7):
        found = lsh.query(index.lean_minhash(row))
        members, _ = index.pools[0].alike(index.pools[0].signatures[row])
        assert sorted(found) == sorted(index.id(int(member)) for member in members)


@pytest.fixture
def redis_port() -> Iterator[int]:
    """A server that speaks Redis's protocol, in a thread of this process."""
    from threading import Thread

    from fakeredis import TcpFakeServer

    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_index_opens_as_a_datasketch_lsh_in_redis(finished: Path, redis_port: int) -> None:
    index = Index.open(finished)
    storage = {
        "type": "redis", "basename": b"malmoi", "redis": {"host": "127.0.0.1", "port": redis_port},
    }  # fmt: skip
    lsh = index.lsh(storage)
    assert set(lsh.query(index.lean_minhash(3))) == set(index.lsh().query(index.lean_minhash(3)))


def test_sources_that_sign_otherwise_have_signatures_of_their_own_and_dialogues_none(
    tmp_path: Path,
) -> None:
    rng = random.Random(8)
    for name in ("a", "b"):
        put(tmp_path / f"{name}.jsonl", {f"{name}{at}": passage(rng) for at in range(9)})
    talk = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워"}]
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "c0", "messages": talk}) + "\n")
    sources = [
        {"name": "a", "paths": [str(tmp_path / "a.jsonl")], "near": {"shingle": 3}},
        {"name": "b", "paths": [str(tmp_path / "b.jsonl")]},
        {"name": "c", "paths": [str(tmp_path / "c.jsonl")], "format": "chat"},
    ]
    run(settings(sources=sources), tmp_path / "run")
    index = Index.open(tmp_path / "run")
    assert [pool.signing.shingle for pool in index.pools] == [3, 5]
    assert [len(pool.members) for pool in index.pools] == [9, 9]
    assert index.id(int(index.pools[1].members[0])) == "b0"
    assert index.lean_minhash(9).hashvalues.tolist() == index.pools[1].signatures[0].tolist()
    with pytest.raises(InputError, match="c0: was not signed"):
        index.lean_minhash(18)


def test_a_run_killed_before_its_index_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path
) -> None:
    config = settings(finished.parent / "in.jsonl", workers=2)

    def stop(progress: Progress) -> None:
        if progress.step == "index" and progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, log=stop)
    assert not manifest_path(tmp_path).exists()
    run(config, tmp_path)
    files = sorted(path for path in index_folder(finished).rglob("*") if path.is_file())
    assert len(files) == 8
    for path in files:
        other = index_folder(tmp_path) / path.relative_to(index_folder(finished))
        assert path.read_bytes() == other.read_bytes(), path.name


def test_band_keys_held_on_the_disk_change_nothing(finished: Path, tmp_path: Path) -> None:
    config = settings(finished.parent / "in.jsonl", on_disk=True)
    run(config, tmp_path)
    assert rows(tmp_path, "removed") == rows(finished, "removed")
    for path in (index_folder(finished) / "near-0").iterdir():
        assert path.read_bytes() == (index_folder(tmp_path) / "near-0" / path.name).read_bytes()


def test_an_index_that_is_not_whole_or_of_other_code_is_refused_with_what_to_do(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    bands = index_folder(copy) / "near-0" / "bands.npy"
    bands.write_bytes(bands.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"bands.npy: is missing or not whole; move .* away and"):
        Index.open(copy)
    manifest_path(copy).unlink()
    with pytest.raises(InputError, match=r"has no index .*; move .* away and run"):
        Index.open(copy)
    with pytest.raises(InputError, match="holds no finished data stage"):
        Index.open(tmp_path / "elsewhere")
    monkeypatch.setattr("dedup.copies.index.digest", lambda text: digest(text + "!"))
    with pytest.raises(InputError, match="signs texts otherwise"):
        Index.open(finished)
