"""Checkpoint folders: kept, refused by name, copied far away and fetched from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_run import make_config

from configs.errors import InputError
from configs.files import write_json
from configs.schema import Checkpoint
from pretrain.checkpoints import checkpoint
from pretrain.checkpoints.identity import Identity, differences
from pretrain.checkpoints.state import LeftOut, State, read_state
from pretrain.checkpoints.store import Store, Uploader, restore, write_manifest


def identity(**changes: Any) -> Identity:
    settings = make_config().pretrain
    assert settings is not None
    whole = json.loads(settings.model_dump_json())
    return replace(Identity(7, "data", "tokenizer", whole), **changes)


def made(folder: Path, step: int, bits: float | None = None, **fields: Any) -> Path:
    """A sealed checkpoint of a few bytes."""
    own = identity()
    partial = folder / f"step-{step:08d}.tmp"
    partial.mkdir(parents=True)
    (partial / "weights.pt").write_bytes(bytes(range(256)) * 40 + step.to_bytes(4, "little"))
    judged = {} if bits is None else {"bits_per_byte": {"ko": bits}, "bits_step": step}
    state = replace(State.start(1, 2, own.digest), step=step, phase_step=step, **judged, **fields)
    write_json(partial / "state.json", asdict(state))
    write_json(partial / "identity.json", own.as_json())
    target = folder / f"step-{step:08d}"
    checkpoint.seal(partial, target)
    return target


def steps(folder: Path) -> list[int]:
    return sorted(checkpoint.step_of(path) for path in checkpoint.found(folder))


def test_the_last_every_so_many_and_the_best_are_kept(tmp_path: Path) -> None:
    bits = {4: 2.0, 8: 1.5, 12: 1.2, 16: 1.4, 20: 1.3, 24: 1.35}
    settings = Checkpoint(keep=2, keep_every=8, keep_best="ko")
    for step, score in bits.items():
        made(tmp_path, step, score)
        checkpoint.prune(tmp_path, settings, step)
    assert steps(tmp_path) == [8, 12, 16, 20, 24]
    checkpoint.prune(tmp_path, Checkpoint(keep=1, keep_best="ko"), 24)
    assert steps(tmp_path) == [12, 24]
    checkpoint.prune(tmp_path, Checkpoint(keep=1), 24)
    assert steps(tmp_path) == [24]


def test_where_jumps_are_rolled_back_one_that_lies_far_enough_back_is_kept(tmp_path: Path) -> None:
    for step in (4, 8, 12, 13, 14):
        made(tmp_path, step)
    checkpoint.prune(tmp_path, Checkpoint(keep=2), 14, rewind=4)
    assert steps(tmp_path) == [8, 13, 14]
    checkpoint.prune(tmp_path, Checkpoint(keep=2), 14)
    assert steps(tmp_path) == [13, 14]


def test_a_score_measured_before_the_save_is_not_its_own(tmp_path: Path) -> None:
    path = made(tmp_path, 4, 1.0)
    made(tmp_path, 8, 2.0)
    state = replace(read_state(path), bits_step=2)
    write_json(path / "state.json", asdict(state))
    made(tmp_path, 12)
    checkpoint.prune(tmp_path, Checkpoint(keep=1, keep_best="ko"), 12)
    assert steps(tmp_path) == [8, 12]


@pytest.mark.parametrize("name", ["weights.pt", "state.json", "identity.json", "manifest.json"])
def test_one_flipped_byte_refuses_a_checkpoint_by_name_and_takes_the_one_before(
    name: str, tmp_path: Path
) -> None:
    made(tmp_path, 4)
    newest = made(tmp_path, 8)
    content = bytearray((newest / name).read_bytes())
    for place in (0, len(content) // 2, len(content) - 2):
        flipped = content.copy()
        flipped[place] ^= 1
        (newest / name).write_bytes(flipped)
        told: list[str] = []
        found = checkpoint.newest(tmp_path, identity(), 0, warn=told.append)
        assert found is not None and found[1].step == 4
        assert str(newest) in told[0]
        if name != "manifest.json":
            assert f"{name} is not as it was written" in told[0]


def test_a_file_that_is_gone_and_a_folder_that_was_never_sealed_are_passed_over(
    tmp_path: Path,
) -> None:
    made(tmp_path, 4)
    (made(tmp_path, 8) / "weights.pt").unlink()
    (made(tmp_path, 12) / "manifest.json").unlink()
    (tmp_path / "step-00000016.tmp").mkdir()
    told: list[str] = []
    found = checkpoint.newest(tmp_path, identity(), 0, warn=told.append)
    assert found is not None and found[1].step == 4 and len(told) == 2


def test_a_checkpoint_of_other_settings_is_refused_with_the_keys_that_differ(
    tmp_path: Path,
) -> None:
    made(tmp_path, 4)
    other = identity()
    settings = json.loads(json.dumps(other.settings))
    settings["optimizer"]["eps"] = 1e-6
    settings["phases"][0]["lr"] = 1.0
    settings["base"]["hidden_size"] = 64
    with pytest.raises(InputError) as caught:
        checkpoint.newest(tmp_path, identity(settings=settings), 0)
    said = str(caught.value)
    assert "pretrain.optimizer.eps: 1e-08 in the checkpoint, 1e-06 in the config" in said
    assert "pretrain.phases.0.lr: 0.003 in the checkpoint, 1.0 in the config" in said
    assert "pretrain.base.hidden_size: 32 in the checkpoint, 64 in the config" in said
    with pytest.raises(InputError, match=r"pretrain\.tokenizer: .* another tokenizer"):
        checkpoint.newest(tmp_path, identity(tokenizer="other", tokens="other"), 0)
    with pytest.raises(InputError, match=r"pretrain\.documents: .* other documents"):
        checkpoint.newest(tmp_path, identity(tokens="other"), 0)
    with pytest.raises(InputError, match="seed: 7 in the checkpoint, 8 in the config"):
        checkpoint.newest(tmp_path, identity(seed=8), 0)


def test_a_key_that_the_program_has_learned_since_is_no_difference_at_its_default() -> None:
    saved = identity().as_json()
    del saved["settings"]["optimizer"]["eps"]
    del saved["settings"]["new_rows"]
    assert differences(saved, identity()) == []


def test_a_checkpoint_that_saw_what_was_left_out_is_passed_over(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        made(tmp_path, step)
    entry = LeftOut(0, 6, 9, 48, 79, "rollback", "loss")
    found = checkpoint.newest(tmp_path, identity(), 0, left_out=[entry])
    assert found is not None and found[1].step == 4
    made(tmp_path, 16, left_out=[entry])
    found = checkpoint.newest(tmp_path, identity(), 0, left_out=[entry])
    assert found is not None and found[1].step == 16 and found[1].left_out == [entry]


def test_a_finished_phase_needs_no_look_at_its_checkpoints(tmp_path: Path) -> None:
    (made(tmp_path, 4) / "weights.pt").write_bytes(b"not looked at")
    assert checkpoint.newest(tmp_path, identity(), 1, warn=pytest.fail) is None


# ── far away ────────────────────────────────────────────────────────────────────────────────────


def stage_with(tmp_path: Path, *numbers: int) -> Path:
    stage = tmp_path / "stage"
    for step in numbers:
        made(stage / "checkpoints", step)
    (stage / "metrics.jsonl").write_text('{"step": 1}\n')
    return stage


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_what_was_copied_comes_back_where_the_folder_is_gone(tmp_path: Path, scheme: str) -> None:
    stage = stage_with(tmp_path, 4, 8)
    place = f"{scheme}{tmp_path / 'far'}" if scheme != "memory://" else f"memory://{tmp_path.name}"
    store = Store(place, "run", identity().digest)
    uploader = Uploader(store, stage)
    for path in reversed(checkpoint.found(stage / "checkpoints")):
        uploader.put(path)
    weights = stage / "phases" / "1"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"weights")
    write_manifest(weights)
    uploader.put(weights)
    assert uploader.wait(20) and uploader.failures == 0
    uploader.close()
    assert [note["name"] for note in uploader.told] == [
        "checkpoints/step-00000004", "checkpoints/step-00000008", "phases/1"
    ]  # fmt: skip
    before = {path.name: path.read_bytes() for path in (stage / "checkpoints").rglob("*.pt")}
    shutil.rmtree(stage)
    stage.mkdir()
    assert restore(store, stage, warn=pytest.fail)
    assert steps(stage / "checkpoints") == [8]
    assert checkpoint.damage(stage / "checkpoints" / "step-00000008") is None
    assert {p.name: p.read_bytes() for p in (stage / "checkpoints").rglob("*.pt")} == before
    assert (weights / "model.safetensors").read_bytes() == b"weights"
    assert (stage / "metrics.jsonl").is_file()


def test_a_far_copy_that_is_damaged_or_unfinished_is_passed_over_and_told(tmp_path: Path) -> None:
    stage = stage_with(tmp_path, 4, 8, 12)
    store = Store(str(tmp_path / "far"), "run", identity().digest)
    for step in (4, 8, 12):
        store.put(stage / "checkpoints" / f"step-{step:08d}", f"checkpoints/step-{step:08d}")
    far = next((tmp_path / "far").glob("run-*")) / "checkpoints"
    (far / "step-00000012" / "manifest.json").unlink()
    file = far / "step-00000008" / "weights.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    shutil.rmtree(stage)
    stage.mkdir()
    told: list[str] = []
    assert restore(store, stage, warn=told.append)
    assert steps(stage / "checkpoints") == [4]
    assert len(told) == 1 and "weights.pt is not as it was written" in told[0]


def test_copies_that_fail_are_told_and_counted_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.checkpoints.store.PAUSE", 0.01)
    stage = stage_with(tmp_path, 4, 8)
    (tmp_path / "far").write_text("a file stands where the store should be")
    uploader = Uploader(Store(str(tmp_path / "far"), "run", identity().digest), stage)
    uploader.put(stage / "checkpoints" / "step-00000004")
    assert uploader.wait(20) and uploader.failures == 1
    assert "problem" in uploader.told[0]
    (tmp_path / "far").unlink()
    uploader.put(stage / "checkpoints" / "step-00000008")
    assert uploader.wait(20) and uploader.failures == 1 and "problem" not in uploader.told[1]
    uploader.close()


def test_the_far_place_keeps_what_the_near_one_keeps(tmp_path: Path) -> None:
    stage = stage_with(tmp_path, 4, 8)
    store = Store(str(tmp_path / "far"), "run", identity().digest)
    uploader = Uploader(store, stage)
    for step in (4, 8):
        uploader.put(stage / "checkpoints" / f"step-{step:08d}")
    assert uploader.wait(20)
    made(stage / "checkpoints", 12)
    checkpoint.prune(stage / "checkpoints", Checkpoint(keep=1), 12)
    uploader.put(stage / "checkpoints" / "step-00000012")
    assert uploader.wait(20)
    uploader.close()
    assert store.names("checkpoints") == ["step-00000012"]


def test_a_place_that_no_library_knows_is_refused() -> None:
    with pytest.raises(InputError, match="no store that fsspec knows"):
        Store("nowhere://bucket", "run", identity().digest)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket of an S3 server on this machine."""
    pytest.importorskip("s3fs")
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket="far")
    yield "s3://far/checkpoints"
    server.stop()


@pytest.mark.thorough
def test_checkpoints_go_to_s3_and_come_back(tmp_path: Path, bucket: str) -> None:
    stage = stage_with(tmp_path, 4, 8)
    store = Store(bucket, "run", identity().digest)
    uploader = Uploader(store, stage)
    for step in (4, 8):
        uploader.put(stage / "checkpoints" / f"step-{step:08d}")
    assert uploader.wait(60) and uploader.failures == 0, uploader.told
    made(stage / "checkpoints", 12)
    checkpoint.prune(stage / "checkpoints", Checkpoint(keep=2), 12)
    uploader.put(stage / "checkpoints" / "step-00000012")
    assert uploader.wait(60) and uploader.failures == 0, uploader.told
    uploader.close()
    assert store.names("checkpoints") == ["step-00000012", "step-00000008"]
    before = (stage / "checkpoints" / "step-00000012" / "weights.pt").read_bytes()
    shutil.rmtree(stage)
    stage.mkdir()
    again = Store(bucket, "run", identity().digest)
    assert restore(again, stage, warn=pytest.fail)
    assert (stage / "checkpoints" / "step-00000012" / "weights.pt").read_bytes() == before
    assert checkpoint.damage(stage / "checkpoints" / "step-00000012") is None


@pytest.mark.thorough
def test_a_bucket_that_is_not_there_fails_the_copy_and_not_the_run(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.checkpoints.store.PAUSE", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    stage = stage_with(tmp_path, 4)
    uploader = Uploader(Store(f"{bucket}-other", "run", identity().digest), stage)
    uploader.put(stage / "checkpoints" / "step-00000004")
    assert uploader.wait(100) and uploader.failures == 1
    assert "problem" in uploader.told[0]
    uploader.close()
