"""`malmoi find`: is this text, or something like it, in the corpus; and what became of an id or url."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from near_corpus import edited, jaccard, passage, put, rows, settings
from small_run import malmoi

from configs.errors import InputError
from dedup.copies.find import find_id, find_text, find_url
from dedup.stage import run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("find")
    rng = random.Random(12)
    texts = {f"t{number:03}": passage(rng) for number in range(120)}
    texts["phone"] = passage(rng) + " 연락은 010-2345-6789 로 주세요"
    texts["copy"] = texts["t007"]
    texts["near"] = edited(rng, texts["t009"])
    texts["short"] = "짧다"
    put(base / "in.jsonl", texts)
    config = settings(base / "in.jsonl", filters={"min_characters": 20, "mean_word": [1, 20],
        "min_language": 0})  # fmt: skip
    run(config, base / "run")
    return base / "run"


def test_the_same_text_is_found_whatever_its_white_space_and_spelling(corpus: Path) -> None:
    text = rows(corpus, "documents")["t011"]["text"]
    for asked in (text, text.replace(" ", "\n\t "), text + "\u200b"):
        (answer,) = find_text(corpus, asked).answers
        assert (answer.id, answer.how, answer.similarity) == ("t011", "same text", 1.0)
        assert answer.url == "https://example.org/t011"
        assert text.startswith(answer.excerpt)


def test_a_near_text_is_found_with_its_exact_similarity(corpus: Path) -> None:
    text = rows(corpus, "documents")["t020"]["text"]
    asked = edited(random.Random(1), text, 2)
    (answer,) = find_text(corpus, asked).answers
    assert (answer.id, answer.how) == ("t020", "near")
    assert answer.similarity == jaccard(asked, text) > 0.8
    far = edited(random.Random(2), text, 12)
    assert 0.5 < jaccard(far, text) < 0.8
    assert not find_text(corpus, far).answers
    assert find_text(corpus, far, at_least=0.5).answers[0].id == "t020"


def test_a_text_is_found_though_the_corpus_has_it_with_personal_data_masked(corpus: Path) -> None:
    kept = rows(corpus, "documents")["phone"]["text"]
    assert "2345" not in kept
    asked = kept[: kept.index("연락은")] + "연락은 010-2345-6789 로 주세요"
    (answer,) = find_text(corpus, asked).answers
    assert (answer.id, answer.how) == ("phone", "same text")


def test_what_is_not_there_is_not_found_and_an_empty_text_is_refused(corpus: Path) -> None:
    found = find_text(corpus, passage(random.Random(99)))
    assert not found.answers
    assert found.searched == len(rows(corpus, "documents"))
    with pytest.raises(InputError, match="the text is empty"):
        find_text(corpus, " \n\u200b")
    assert not find_text(corpus, "\ud800").answers


def test_of_many_candidates_the_likeliest_are_compared_and_the_rest_is_counted(
    tmp_path: Path,
) -> None:
    rng = random.Random(3)
    base = passage(rng)
    put(tmp_path / "in.jsonl", {f"k{number}": edited(rng, base, 2) for number in range(30)})
    run(settings(tmp_path / "in.jsonl", near={"threshold": 1.0}), tmp_path / "run")
    found = find_text(tmp_path / "run", base, at_least=0.6, most=5)
    assert len(found.answers) == found.compared == 5
    assert found.candidates == 30
    values = [answer.similarity for answer in found.answers]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]


def test_an_id_is_found_kept_or_removed_with_why(corpus: Path) -> None:
    (kept,) = find_id(corpus, "t003").answers
    assert (kept.step, kept.url) == ("", "https://example.org/t003")
    (gone,) = find_id(corpus, "short").answers
    assert (gone.step, gone.reason, gone.excerpt) == ("filter", "too_short", "짧다")
    removed = rows(corpus, "removed")
    name = "copy" if "copy" in removed else "t007"
    (copy,) = find_id(corpus, name).answers
    assert (copy.step, copy.kept_id) == ("exact", removed[name]["kept_id"])
    assert not find_id(corpus, "nobody").answers


def test_an_address_is_found_however_it_is_written(corpus: Path) -> None:
    for url in ("https://example.org/t004", "http://example.org/t004/", " example.org/t004"):
        (answer,) = find_url(corpus, url).answers
        assert (answer.id, answer.how) == ("t004", "url")
    assert not find_url(corpus, "https://example.org/none").answers


def test_the_address_of_a_removed_copy_is_found_with_why(corpus: Path) -> None:
    removed = rows(corpus, "removed")
    name = "near" if "near" in removed else "t009"
    (answer,) = find_url(corpus, f"https://example.org/{name}").answers
    assert (answer.id, answer.step, answer.kept_id) == (name, "near", removed[name]["kept_id"])


def test_the_command_says_what_it_found_and_exits_0_or_1(corpus: Path, tmp_path: Path) -> None:
    text = rows(corpus, "documents")["t011"]["text"]
    done = malmoi("find", str(corpus), text)
    assert done.returncode == 0, done.stderr
    assert "t011  the same text  of source web  https://example.org/t011" in done.stdout
    assert "documents in 0." in done.stdout or "documents in" in done.stdout
    (tmp_path / "asked.txt").write_text(edited(random.Random(4), text))
    done = malmoi("find", str(corpus), "--file", str(tmp_path / "asked.txt"), "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    assert answer["id"] == "t011" and 0.8 < answer["similarity"] < 1
    done = malmoi("find", str(corpus), passage(random.Random(98)))
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "not found")
    done = malmoi("find", str(corpus), "--id", "short")
    assert done.returncode == 0
    assert "not in the corpus: went at step filter: too_short" in done.stdout
    done = malmoi("find", str(corpus), "글", "--id", "short")
    assert done.returncode == 2
    assert "give one of TEXT" in done.stderr
