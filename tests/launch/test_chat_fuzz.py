"""The chat server under bad requests, leaving clients and many short ones: nothing breaks or leaks."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.chat_fuzz import SHORT, run


@pytest.mark.thorough
def test_bad_requests_and_leaving_clients_leak_no_slot_memory_or_file(chat_model: Path) -> None:
    found, _ = run(chat_model, 45)
    assert found.wrong == []
    assert found.statuses[200] > SHORT
    assert found.statuses[400] > 100
    assert found.streams["left"] > 20
    assert found.streams["whole"] > 100
