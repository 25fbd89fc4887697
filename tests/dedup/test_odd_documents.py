"""Documents no one would write: each is counted, none stops the run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet

from configs.schema import Config
from dedup.stage import run

ODD = {
    "emoji": "😀🎉👨\u200d👩\u200d👧" * 300,
    "dots": "\u11a2" * 5_000,
    "syllable": "가" * 300_000,
    "laugh": "ㅋ" * 10_000,
    "nul": "앞\x00뒤 " * 40,
    "spaces": " \u3000\u200b\n\t" * 400,
    "word": "안녕하세요 " * 20_000,
    "combining": "a" + "\u0301" * 3_000,
    "old": "ᄒᆞᆫ글 ᄆᆞᅀᆞᆷ 나랏말ᄊᆞ미 듕귁에 달아 문ᄍᆞᆼ와로 서르 ᄉᆞᄆᆞᆺ디 아니ᄒᆞᆯᄊᆡ",
}


def test_odd_documents_are_counted_and_the_old_writing_stays(tmp_path: Path) -> None:
    source = tmp_path / "odd.jsonl"
    lines = [json.dumps({"id": name, "text": text}) for name, text in ODD.items()]
    lines.append('{"id": "surrogate", "text": "앞 \\ud800 뒤"}')
    lines.append(
        '{"id": "pair", "text": "웃음 \\ud83d\\ude00 얼굴이 보이는 짧은 글을 하나 적어 둔다."}'
    )
    source.write_text("\n".join(lines), encoding="utf-8")
    config = Config.model_validate(
        {"name": "odd", "dedup": {"sources": [{"name": "a", "paths": [str(source)]}], "workers": 1}}
    )
    report = run(config, tmp_path / "run")
    assert report.documents_in == len(lines)
    removed = parquet.read_table(tmp_path / "run/dedup/removed").to_pylist()
    kept = parquet.read_table(tmp_path / "run/dedup/documents").to_pylist()
    assert len(removed) + len(kept) + report.documents_failed == report.documents_in
    reasons = {row["id"]: f"{row['step']}/{row['reason']}" for row in removed}
    assert {row["id"] for row in kept} >= {"old", "pair"}
    assert reasons["spaces"] == "normalise/empty"
    assert reasons["word"] == "filter/repeated_words"
    assert reasons["syllable"] == "filter/word_length"
    assert report.documents_failed == 1  # the lone surrogate, kept apart whole
