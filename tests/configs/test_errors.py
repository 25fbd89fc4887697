"""A full disk is recognised in whatever words a library reports it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from configs import errors
from configs.errors import InputError, Stopped, is_no_space, no_space


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "…" })'),
    ],
)
def test_every_way_to_say_that_the_disk_is_full_is_understood(error: Exception) -> None:
    assert is_no_space(error)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0",
        "PytorchStreamWriter failed writing file data/0: file write failed",
        "4096 requested and 512 written",
    ],
)
def test_a_short_write_counts_only_where_hardly_anything_is_free(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError(message)
    assert not is_no_space(error)
    monkeypatch.setattr(errors, "_NEARLY_FULL", 0)
    assert not is_no_space(error, tmp_path)
    monkeypatch.setattr(errors, "_NEARLY_FULL", 1 << 62)
    assert is_no_space(error, tmp_path)


def test_the_error_beneath_another_counts_too_and_other_errors_do_not() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("the writer could not be closed")
    except RuntimeError as error:
        assert is_no_space(error)
    assert not is_no_space(OSError(errno.EACCES, "Permission denied"))
    assert not is_no_space(InputError("disk is full of mistakes"))


def test_the_line_names_the_file_or_the_folder_and_what_to_do(tmp_path: Path) -> None:
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a.bin"))
    assert no_space(named, tmp_path).startswith(f"{tmp_path / 'a.bin'}: no space left")
    line = no_space(RuntimeError("os error 28"), tmp_path)
    assert line.startswith(f"{tmp_path}: no space left") and "same command again" in line


def test_a_stop_is_not_swallowed_by_code_that_survives_every_error() -> None:
    with pytest.raises(Stopped):
        try:
            raise Stopped
        except Exception:
            pytest.fail("swallowed")
