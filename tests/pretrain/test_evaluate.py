"""Bits per byte: what lm-eval finds on the same documents, whatever the window and the tokenizer."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_model import make_model
from tiny_run import ENGLISH, WORDS, dialogue, document, sentence
from transformers import LlamaForCausalLM

from configs.errors import InputError
from dedup.documents import SCHEMA
from pretrain.evaluation.evaluate import bits_per_byte, texts_as_documents
from pretrain.evaluation.measure import choose, evaluate_model, measure, window_of
from pretrain.evaluation.windows import rows, windows
from tokenizer.load import load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("with-bos") / "model")


def make_texts(count: int) -> list[str]:
    """Texts of one token to several windows, with newlines and odd spaces."""
    chance = random.Random(4)
    texts = [sentence(chance, chance.choice((WORDS, ENGLISH)), 120) for _ in range(count)]
    return ["봄", *texts, f"  {texts[0]}\n\n{texts[1]}  \n"]


def test_windows_predict_every_token_once_and_the_last_reaches_back() -> None:
    assert windows(9, 8) == [(0, 8, 8)]
    assert windows(12, 8) == [(0, 8, 8), (3, 11, 3)]
    for length in range(2, 60):
        judged = [
            target
            for _, stop, count in windows(length, 7)
            for target in range(stop - count + 1, stop + 1)
        ]
        assert judged == list(range(1, length))


def test_windows_are_those_of_lm_eval() -> None:
    from lm_eval.utils import get_rolling_token_windows

    for length in range(2, 60):
        ids = list(range(length))  # 0 is BOS
        theirs = [
            (inputs, predicted) for inputs, predicted in get_rolling_token_windows(ids[1:], 0, 7, 1)
        ]
        ours = [
            (ids[start:stop], ids[stop - count + 1 : stop + 1])
            for start, stop, count in windows(length, 7)
        ]
        assert ours == [(inputs[-7:], predicted) for inputs, predicted in theirs]


@torch.no_grad()
def test_bits_per_byte_equals_the_log_likelihood_of_each_text_by_itself(model: Path) -> None:
    tokenizer = load_tokenizer(model)
    network = LlamaForCausalLM.from_pretrained(model).eval()
    texts = ["봄 여름 가을 겨울", "the wind blows", "작은 마을 시장 사람들"]
    nats = 0.0
    for text in texts:
        ids = torch.tensor(
            [[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]]
        )
        log_p = network(input_ids=ids).logits.log_softmax(-1)
        nats -= float(log_p[0, :-1].gather(1, ids[0, 1:, None]).sum())
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    documents = {"mixed": texts_as_documents(tokenizer, texts)}
    found = bits_per_byte(network, documents, sequence_length=64, micro_batch=2)
    assert found["mixed"] == pytest.approx(expected, rel=1e-5)
    assert len(rows(documents["mixed"], 64, 0)) >= 1


TASK = """
task: rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
"""


def lm_evals_bits_per_byte(model: Path, texts: list[str], folder: Path, **options: bool) -> float:
    """What lm-eval itself makes of a rolling task on these texts."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "rolling.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=3, **options)
    found = simple_evaluate(lm, tasks=["rolling"], task_manager=manager, bootstrap_iters=0)
    assert found is not None
    return float(found["results"]["rolling"]["bits_per_byte,none"])


def test_bits_per_byte_is_lm_evals_on_the_same_documents(model: Path, tmp_path: Path) -> None:
    texts = make_texts(12)
    theirs = lm_evals_bits_per_byte(model, texts, tmp_path, add_bos_token=False)
    table = pa.Table.from_pylist(
        [document(number, "mixed", text) for number, text in enumerate(texts)], SCHEMA
    )
    pq.write_table(table, tmp_path / "documents.parquet")
    ours = evaluate_model(model, tmp_path / "documents.parquet", split=None)
    assert ours["mixed"] == pytest.approx(theirs, abs=1e-5)  # the promise is 1e-4
    twice = lm_evals_bits_per_byte(model, texts, tmp_path)
    assert abs(twice - theirs) > 0.01  # with a second BOS, of which it judges one


def test_a_tokenizer_that_adds_no_bos_needs_no_flag(tmp_path: Path) -> None:
    plain = make_model(tmp_path / "model", adds_bos=False)
    texts = make_texts(6)
    theirs = lm_evals_bits_per_byte(plain, texts, tmp_path)
    tokenizer = load_tokenizer(plain)
    network = LlamaForCausalLM.from_pretrained(plain)
    found = bits_per_byte(
        network, {"mixed": texts_as_documents(tokenizer, texts)}, sequence_length=64
    )
    assert found["mixed"] == pytest.approx(theirs, abs=1e-5)


def write_documents(path: Path, count: int, *, reverse: bool = False) -> Path:
    chance = random.Random(9)
    made = [document(n, "news", sentence(chance, WORDS)) for n in range(count)]
    made += [document(n, "wiki", sentence(chance, WORDS)) for n in range(count // 4)]
    made += [document(n, "books", sentence(chance, ENGLISH), language="en") for n in range(count)]
    made += [dialogue(n, chance) for n in range(count // 4)]
    rows = made[::-1] if reverse else made
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return path


def test_the_sample_is_whole_documents_up_to_the_bytes_wanted_and_no_order_changes_it(
    tmp_path: Path,
) -> None:
    forward = write_documents(tmp_path / "a.parquet", 200)
    backward = write_documents(tmp_path / "b.parquet", 200, reverse=True)
    chosen = choose(forward, split=None, most=3000)
    assert [row["id"] for row in chosen] == [
        row["id"] for row in choose(backward, split=None, most=3000)
    ]
    news = [len(row["text"].encode()) for row in chosen if row["source"] == "news"]
    assert sum(news) >= 3000 > sum(news[:-1])
    everything = choose(forward, split=None, most=None)
    assert len(everything) == 500 and {row["source"] for row in everything} == {
        "books",
        "dialogue",
        "news",
        "wiki",
    }
    assert all(row["id"] in {one["id"] for one in everything} for row in chosen)


def test_languages_are_means_over_their_sources_by_bytes(model: Path, tmp_path: Path) -> None:
    chosen = choose(write_documents(tmp_path / "a.parquet", 40), split=None)
    found = measure(model, chosen)
    assert [one.name for one in found] == ["en", "ko", "books", "dialogue", "news", "wiki"]
    by_name = {one.name: one for one in found}
    news, wiki, korean = by_name["news"], by_name["wiki"], by_name["ko"]
    assert korean.bytes == news.bytes + wiki.bytes and korean.documents == 50
    bits = news.bits_per_byte * news.bytes + wiki.bits_per_byte * wiki.bytes
    assert korean.bits_per_byte == pytest.approx(bits / korean.bytes)
    assert by_name["dialogue"].language is None
    assert measure(model, chosen, micro_batch=3)[0].bits_per_byte == pytest.approx(
        found[0].bits_per_byte, rel=1e-6
    )


def test_a_window_that_no_model_has_and_a_model_that_is_none_are_mistakes(model: Path) -> None:
    assert (window_of(model), window_of(model, 32)) == (64, 32)
    with pytest.raises(InputError, match="65 tokens are more than the 64 positions"):
        window_of(model, 65)
    with pytest.raises(InputError, match="no/such-model: cannot be loaded as a model"):
        window_of("no/such-model")


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    made = [document(n, "news", "봄이 온다", split="train") for n in range(3)]
    pq.write_table(pa.Table.from_pylist(made, SCHEMA), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"train\.parquet: no held-out document"):
        choose(tmp_path / "train.parquet")
