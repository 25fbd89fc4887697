"""report.html from run folders as the stages leave them: whole, half done, damaged, hostile, large."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import InputError
from configs.files import write_json, write_text
from launch.charts import Series, line_chart, scatter, smooth, thin, ticks
from launch.report import write
from launch.section_copies import copies, marked
from launch.section_tokenizer import chips

SENTENCE = "한국어 토크나이저는 어절을 짧게 자릅니다."
HOSTILE = "<script>alert('x')</script><img src=http://example.invalid/a.png onerror=alert(1)>"


def make_config(folder: Path) -> None:
    phases = [
        {"name": "new-rows", "tokens": 100_000, "lr": 2e-3, "mixture": {"news": 1.0}},
        {"name": "full", "tokens": 900_000, "lr": 1e-3, "mixture": {"news": 0.8, "en": 0.2}},
        {"name": "chat", "objective": "chat", "epochs": 2, "mixture": {"dialogue": 1.0}},
    ]
    config = {
        "schema_version": 1,
        "name": "sarangbang",
        "dedup": {
            "sources": [
                {"name": "news", "paths": ["news/*.html"], "language": "ko"},
                {"name": "forum", "paths": ["forum.jsonl.zst"], "language": "ko"},
                {"name": "en", "paths": ["en.parquet"], "language": "en"},
            ]
        },
        "tokenizer": {"base": "llama3", "new_tokens": 2000},
        "pretrain": {
            "base": {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4},
            "phases": phases,
        },
    }
    write_text(folder / "config.yaml", yaml.safe_dump(config, allow_unicode=True, sort_keys=False))


def make_dedup(folder: Path, text: str = "지금 바로 클릭! 무료 상담 신청하세요 ★★★") -> None:
    reasons = {
        "filter/spam": 142, "filter/min_hangul": 96, "filter/duplicate_lines": 71, "pii/account": 3,
        "exact/same_text": 391, "near/jaccard": 568,
    }  # fmt: skip
    copy = "오늘 시청 앞 광장에서 열린 나눔 장터에는 아침부터 사람이 많이 모였다."
    near = {"id": "news/a.html#3", "source": "news", "text": copy, "kept_id": "news/b.html#1",
            "kept_text": copy[:-1] + "!", "similarity": 0.9123}  # fmt: skip
    report = {
        "documents_in": 12_366, "documents_out": 11_081, "documents_failed": 14,
        "heldout": 61, "pii": {"phone": 31, "account": 4}, "bytes_in": 61_000_000, "bytes_out": 44_500_000,
        "removed": {"filter": 309, "pii": 3, "decontaminate": 0, "exact": 391, "near": 568},
        "seconds": {"read": 3.1, "normalise": 1.2, "filter": 2.2, "exact": 0.4, "near": 5.9},
        "by_source": {
            "news": {"scripts": {"hangul": 9_000_000}, "documents_in": 8000, "documents_out": 7100, "characters_out": 9_200_000,
                     "removed": {"filter": 200, "exact": 300, "near": 400}},
            "forum": {"documents_in": 3366, "documents_out": 3000, "characters_out": 2_100_000,
                      "removed": {"filter": 104, "pii": 3, "exact": 91, "near": 168}},
            "en": {"scripts": {"latin": 3_400_000, "han": 20_000}, "documents_in": 1000, "documents_out": 981, "characters_out": 3_300_000,
                   "removed": {"filter": 5}},
        },
        "reasons": reasons,
        "failed_files": [{"path": "news/cut.html.zst", "error": "zstd: the file ends early"},
                         {"path": "forum.jsonl.zst", "line": 812, "error": "is not JSON", "offset": None, "records": 13}],
        "examples": {"near/jaccard": [near],
                     "filter/spam": [{"id": "forum/1", "source": "forum", "text": text}]},
        "similarities": {f"{0.8 + index / 50:.2f}": 20 + 9 * index for index in range(10)},
        "clusters": {"2": 301, "3": 88, "4": 21, "5": 9, "8": 4, "34": 1},
        "lengths_in": {"8": 40, "64": 3000, "1024": 9000, "16384": 312},
        "lengths_out": {"64": 2800, "1024": 8000, "16384": 281},
        "scripts": {"hangul": 9_000_000, "latin": 3_400_000, "han": 20_000},
        "largest_clusters": [
            {"id": "news/b.html#1", "documents": 34, "source": "news", "members": [
                {"id": "news/a.html#3", "source": "news", "similarity": 0.9123, "text": copy.replace("나눔", "<b>벼룩"),
                 "kept_text": copy},
                {"id": "news/c.html#9", "source": "news", "similarity": 1.0, "text": copy, "kept_text": copy}]},
            {"id": "2019-04/old#7", "documents": 8},
        ],
    }  # fmt: skip
    write_json(folder / "dedup" / "report.json", report)


def make_tokenizer(folder: Path) -> None:
    pieces = ["한국", "어", " ⟨ed 86⟩".strip(), "⟨a0⟩", "크", "나", "이", "저", "는", " 어", "절", "을", " ",
              "⟨ec a7⟩", "⟨a7⟩", "게", " 자", "⟨eb a6⟩", "⟨85⟩", "니다", "."]  # fmt: skip

    def source(words: int, tokens: tuple[int, int], korean: bool) -> dict[str, Any]:
        before, after = tokens
        return {
            "documents": 40, "characters": 4 * words, "words": words, "korean": korean,
            "tokens_before": before if korean else 0, "tokens_after": after if korean else 0,
            "saved": 1 - after / before if korean else None, "eojeols": words if korean else 0,
            "all_tokens_before": before, "all_tokens_after": after,
            "fertility_before": before / words if korean else None,
            "fertility_after": after / words if korean else None,
        }  # fmt: skip

    gates = ("round_trip", "base_ids_unchanged", "no_hangul_identical", "merges_reachable")
    report = {
        "base": "llama3", "base_vocab_size": 128_256, "asked": 2000, "new_tokens": 2000, "note": "",
        "vocab_size": 130_256, "tokenizer_sha256": "ab" * 32, "measured_on": "heldout",
        "tokens_saved": 0.384, "all_tokens_saved": 0.33, "fertility_before": 2.41, "fertility_after": 1.48,
        "heldout": {"news": source(9000, (22_100, 13_400), True), "forum": source(2100, (5200, 3270), True),
                    "en": source(5100, (6700, 6700), False)},
        "example": {"text": SENTENCE, "before": pieces,
                    "after": ["한국어", " 토크", "나이저", "는", " 어절", "을", " 짧게", " 자릅니다", "."]},
        "gates": dict.fromkeys(gates, "passed"), "tokens": {"partial_characters": 3},
        "words_learned_from": 40_112, "sizes": {"news": 900_000}, "seconds": {"count": 9.0, "learn": 30.1},
    }  # fmt: skip
    words = [
        "있습니다",
        "대한",
        "하였다",
        "그리고",
        "우리는",
        "서울",
        "사람들이",
        "한국의",
        "때문에",
    ]
    rows = [f"{128_256 + i}\tĠx{i}\t {words[i % 9]}\t{90_000 // (i + 1)}\t{' '.join('9' * 2 for _ in range(2 + i % 3))}"
            for i in range(200)]  # fmt: skip
    write_json(folder / "tokenizer" / "report.json", report)
    write_text(
        folder / "tokenizer" / "new_tokens.tsv",
        "\n".join(["id\ttoken\ttext\tcount\tbase_ids", *rows]) + "\n",
    )


def make_metrics(folder: Path, steps: int, seed: int = 17) -> None:
    dice = random.Random(seed)
    lines: list[dict[str, Any]] = []
    for step in range(steps + 1):
        done = step / steps
        phase = "new-rows" if done < 0.1 else "full" if done < 0.85 else "chat"
        if step:
            loss = 4.1 + 7.6 * math.exp(-6 * done) + (-0.9 if phase == "chat" else 0)
            loss += dice.gauss(0, 0.18) + (2.5 if dice.random() < 0.002 else 0)
            rate = 1e-3 * min(1, done / 0.03) * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
            lines.append({"step": step, "phase": phase, "tokens": step * 8192, "loss": loss,
                          "learning_rate": rate, "grad_norm": 1 + dice.random(),
                          "tokens_per_second": dice.gauss(610, 25)})  # fmt: skip
        if step % max(1, steps // 12) == 0:
            ko, en = 1.9 + 2.2 * math.exp(-5 * done), 2.4 + 1.6 * math.exp(-5 * done)
            bits = {"news": ko - 0.07, "forum": ko + 0.12, "en": en, "ko": ko}
            lines.append({"step": step, "bits_per_byte": bits})
    write_text(
        folder / "pretrain" / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines)
    )


def make_pretrain(folder: Path, parameters: int = 17_400_000) -> None:
    before = {"news": 4.02, "forum": 4.21, "en": 4.0, "ko": 4.1}
    after = {"news": 1.85, "forum": 2.04, "en": 2.41, "ko": 1.93}
    report = {
        "parameters": parameters, "vocab_size": 130_304, "tokens": 1_638_400, "seconds": 2690.0,
        "phases": [{"name": "new-rows", "steps": 20, "tokens": 163_840, "loss_first": 11.8, "loss_last": 8.4},
                   {"name": "full", "steps": 150, "tokens": 1_228_800, "loss_first": 8.3, "loss_last": 4.2},
                   {"name": "chat", "steps": 30, "tokens": 245_760, "loss_first": 3.9, "loss_last": 3.2}],
        "bits_per_byte": {"before": before, "after": after},
        "resumed": 1, "world_size": 2, "zero_stage": 2, "dtype": "bf16",
    }  # fmt: skip
    write_json(folder / "pretrain" / "report.json", report)


def make_lineage(
    folder: Path, stages: tuple[str, ...] = ("dedup", "tokenizer", "pretrain")
) -> None:
    def stage(name: str, seconds: float) -> dict[str, Any]:
        return {
            "status": "done", "keys": {}, "seconds": seconds, "digest": "c0ffee" * 10 + "abcd",
            "inputs": {"files": [{"path": f"/data/news/{i:03}.html.zst", "bytes": 812_345, "modified": 1,
                                  "sha256": f"{i:064x}"[::-1]} for i in range(5)]}
            if name == "dedup" else {"dedup": "ab" * 32, "base": "llama3"},
            "code": {"version": "0.1.0", "commit": "f" * 40 + "-dirty"},
            "machine": {"host": "dal", "python": "3.11.9", "system": "Linux x86_64", "cores": 2},
            "started": "2026-11-20T09:12:00+00:00", "ended": "2026-11-20T10:01:00+00:00",
        }  # fmt: skip

    seconds = {"dedup": 12.8, "tokenizer": 41.0, "pretrain": 2690.0}
    write_json(
        folder / "lineage.json",
        {"malmoi": "0.1.0", "stages": {s: stage(s, seconds[s]) for s in stages}},
    )


def make_run(folder: Path, steps: int = 200) -> Path:
    make_config(folder)
    make_dedup(folder)
    make_tokenizer(folder)
    make_metrics(folder, steps)
    make_pretrain(folder)
    make_lineage(folder)
    replies = [
        {
            "prompt": "주말에 어디 가면 좋을까요?",
            "reply": "가까운 강가를 걸어 보세요.\n바람이 좋습니다.",
        }
    ]
    write_json(folder / "replies.json", replies)
    return folder


class Page(HTMLParser):
    """Tags that are still open, tags seen, addresses asked for."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def page_of(folder: Path) -> Page:
    page = Page(write(folder).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_shows_every_stage_of_a_whole_run(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "sarangbang"))
    for said in (
        "sarangbang", "89.6 %", "2.41 → 1.48 tokens per eojeol", "4.10 → 1.93", "45 min 44 s",
        "−568 (4.6 %) · 11,081 left", "news/cut.html.zst", "zstd: the file ends early", "similarity 0.912",
        "자릅니다", "21 tokens", "9 tokens", "있습니다", "round trip", "new-rows", "주말에 어디 가면",
        "A toy model answers", "17.40 M parameters", "f" * 10 + "-dirty", "resumptions 1", "en is not Korean: 6,700 tokens before and after",
    ):  # fmt: skip
        assert said in page.text, said


def test_the_page_asks_nothing_of_the_network_and_runs_no_script(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not page.seen & {"script", "img", "iframe", "object", "embed"}
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", html)


def test_text_of_the_run_is_never_read_as_html(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_dedup(tmp_path, text=HOSTILE)
    report = json.loads((tmp_path / "dedup/report.json").read_text())
    report["by_source"][HOSTILE] = {"documents_in": 1, "documents_out": 1, "removed": {HOSTILE: 1}}
    report["removed"][HOSTILE] = 1
    report["reasons"][HOSTILE] = 7
    report["failed_files"].append({"path": HOSTILE, "error": HOSTILE})
    write_json(tmp_path / "dedup/report.json", report)
    tokens = json.loads((tmp_path / "tokenizer/report.json").read_text())
    tokens["example"] = {"text": HOSTILE, "before": [HOSTILE], "after": [HOSTILE]}
    tokens["gates"][HOSTILE] = HOSTILE
    write_json(tmp_path / "tokenizer/report.json", tokens)
    write_text(
        tmp_path / "tokenizer/new_tokens.tsv",
        f"id\ttoken\ttext\tcount\tbase_ids\n1\tx\t{HOSTILE}\t9\t1 2\n",
    )
    write_text(
        tmp_path / "pretrain/metrics.jsonl",
        "".join(json.dumps({"step": i, "phase": f"{HOSTILE}{i}", "loss": 2.0,
                            "bits_per_byte": {HOSTILE: 1.0}}) + "\n" for i in range(3)),
    )  # fmt: skip
    write_json(tmp_path / "replies.json", [{"prompt": HOSTILE, "reply": f"</pre>{HOSTILE}"}])
    page = page_of(tmp_path)
    assert not page.seen & {"script", "img"}
    assert HOSTILE in page.text


def test_the_data_part_shows_sources_lengths_writing_systems_and_the_largest_clusters(
    tmp_path: Path,
) -> None:
    make_dedup(tmp_path)
    page = page_of(tmp_path)
    for words in (
        "7,100 of 8,000 kept (88.8 %)", "near: 400 (5.0 %)", "Length of the documents",
        "9,000 before, 8,000 after", "40 before, 0 after", "99.4 % latin", "news/c.html#9",
        "similarity 1.000, the same text", "2019-04/old#7", "34 documents",
    ):  # fmt: skip
        assert words in page.text, words
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<mark>나눔</mark>" in html and "<mark>&lt;b&gt;벼룩</mark>" in html


def test_exact_copies_are_no_bar_among_the_near_ones() -> None:
    chart = copies({"removed": {"exact": 40}, "similarities": {"0.90": 7, "1.00": 41}})
    titles = re.findall(r"<title>(.*?)</title>", chart["similarity"])
    assert titles[0] == "0.90: 7" and titles[-1] == "1.00: 1"
    assert not copies({"removed": {"exact": 40}, "similarities": {"1.00": 40}})["similarity"]


def test_words_that_a_cut_took_away_are_not_marked_as_different() -> None:
    one, other = marked("가 " * 20 + "머리…", "나 " + "가 " * 20 + "꼬리…")
    assert "<mark>" not in one and other.startswith("<mark>나</mark>")
    assert other.endswith(" 꼬리…")
    assert marked("가 나", "가 다") == ("가 <mark>나</mark>", "가 <mark>다</mark>")


def test_a_stage_that_has_not_run_says_so(tmp_path: Path) -> None:
    make_config(tmp_path)
    make_dedup(tmp_path)
    make_lineage(tmp_path, ("dedup",))
    page = page_of(tmp_path)
    assert "The tokenizer: this stage has not run yet" in page.text
    assert "Training: this stage has not run yet" in page.text
    assert "not measured yet" in page.text


def test_a_folder_with_nothing_in_it_still_gives_a_page(tmp_path: Path) -> None:
    assert "No lineage.json" in page_of(tmp_path).text


def test_half_a_training_is_shown_as_far_as_it_got(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "pretrain/report.json").unlink()
    with (tmp_path / "pretrain/metrics.jsonl").open("a") as handle:
        handle.write('{"step": 201, "loss": NaN}\n{"step": 202, "lo')
    page = page_of(tmp_path)
    assert "200 optimizer steps so far" in page.text
    assert "Bits per byte, Korean" in page.text


def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    make_run(tmp_path)
    write_text(tmp_path / "tokenizer/report.json", '{"base": "llama3", ')
    page = page_of(tmp_path)
    assert "tokenizer/report.json is not whole JSON" in page.text
    assert "sarangbang" in page.text


def test_reports_with_parts_missing_or_of_another_form_still_give_a_page(tmp_path: Path) -> None:
    make_config(tmp_path)
    write_json(
        tmp_path / "dedup/report.json", {"documents_in": 0, "failed_files": 3, "examples": []}
    )
    write_json(
        tmp_path / "tokenizer/report.json", {"heldout": {"a": {"words": 0}}, "example": None}
    )
    write_json(
        tmp_path / "pretrain/report.json",
        {"phases": None, "bits_per_byte": {"before": {"ko": "x"}}},
    )
    write_json(tmp_path / "replies.json", {"not": "a list"})
    page_of(tmp_path)


def test_twenty_thousand_steps_make_a_page_under_two_megabytes_that_keeps_its_spikes(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, steps=20_000)
    page = write(tmp_path)
    assert page.stat().st_size < 2_000_000
    points = [(float(x), 40.0 if x == 7777 else 1.0) for x in range(20_000)]
    for fewer in (thin, scatter):
        assert (7777.0, 40.0) in fewer(points, 500)
        assert len(fewer(points, 500)) <= 502


def test_a_run_folder_that_is_not_there_is_the_persons_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        write(tmp_path / "nothing")


def test_a_second_writing_gives_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path)
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first
    assert list(tmp_path.glob(".*tmp")) == []


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.2, 11.9), (2e-6, 2e-5), (5, 5), (0, 0), (-3, 4), (1e9, 3e9)]
)
def test_ticks_are_round_few_and_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 9


def test_smoothing_does_not_lag_behind_a_falling_line() -> None:
    falling = [(float(x), 100.0 - 2 * x) for x in range(50)]
    assert dict(smooth(falling, 9)[1:-1]) == pytest.approx(dict(falling[1:-1]))
    assert smooth(falling[:1], 9) == falling[:1]


def test_half_a_character_that_json_can_hold_does_not_stop_the_page(tmp_path: Path) -> None:
    (tmp_path / "replies.json").write_text('[{"prompt": "\\ud800", "reply": "네"}]')
    assert "네" in page_of(tmp_path).text


def test_a_chart_of_one_point_is_a_dot_and_of_none_is_empty() -> None:
    assert "dots" in line_chart([Series("loss", [(3, 2.0)], "ko")], x_label="step", y_label="loss")
    assert line_chart([], x_label="step", y_label="loss") == ""


def test_a_token_that_cuts_a_character_is_shown_as_its_bytes() -> None:
    found = [(chip.text, chip.space, chip.piece) for chip in chips(["안", " 녕", "⟨eb 85⟩", " "])]
    assert found == [
        ("안", False, False),
        ("녕", True, False),
        ("EB 85", False, True),
        ("␣", True, False),
    ]
