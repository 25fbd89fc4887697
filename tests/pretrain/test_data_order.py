"""The data plane: tokens, packing, order, batches."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from pretrain.batches import IGNORED, Sequences, Share
from pretrain.order import SLOTS, Order, permute
from pretrain.packing import cut, make_plan, open_plan, pack
from pretrain.tokens import Tokens, open_tokens, write_tokens
from tokenizer.load import load_tokenizer


@pytest.fixture(scope="module")
def tokens(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path, tiny_documents: Path
) -> Tokens:
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = load_tokenizer(tiny_tokenizer)
    write_tokens([tiny_documents], tokenizer, tiny_tokenizer / "tokenizer.json", folder)
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


def test_a_preparation_that_was_killed_goes_on_and_ends_with_the_same_bytes(
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
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tiny_run import SCHEMA, document

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
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tiny_run import SCHEMA, document

    rows = [document(0, "web/ko", "봄 여름")]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "one.parquet")
    tokenizer = load_tokenizer(tiny_tokenizer)
    with pytest.raises(InputError, match=r"one\.parquet: the source 'web/ko' .* without '/'"):
        write_tokens(
            [tmp_path / "one.parquet"], tokenizer, tiny_tokenizer / "tokenizer.json", tmp_path / "t"
        )


def test_no_document_that_fits_is_cut_and_the_waste_is_under_one_percent() -> None:
    chance = np.random.default_rng(3)
    lengths = np.exp(chance.normal(5.5, 1.2, 20_000)).astype(np.int64) + 2
    plan = pack(cut(lengths, 1024), 1024)
    pieces = plan.pieces
    assert int(pieces["length"].sum()) == int(lengths.sum())
    assert Counter(pieces["document"].tolist()) == Counter(
        {n: max(1, -(-int(size) // 1024)) for n, size in enumerate(lengths)}
    )
    assert max(int(plan[k]["length"].sum()) for k in range(len(plan))) <= 1024
    assert 1 - plan.tokens / (len(plan) * 1024) < 0.01


def test_an_epoch_visits_every_sequence_once_and_the_next_in_another_order() -> None:
    order = Order(7, "full", {"ko": 1.0}, {"ko": 1000})
    epochs = [[order(i).index for i in range(k * 1000, (k + 1) * 1000)] for k in range(3)]
    assert all(sorted(epoch) == list(range(1000)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_permutations_are_bijections_of_any_size() -> None:
    for size in (1, 2, 3, 5, 17, 64, 1000, 4097):
        assert sorted(permute(i, size, 42) for i in range(size)) == list(range(size))


def test_any_window_of_ten_thousand_holds_the_mixture_exactly() -> None:
    mixture = {"ko": 0.73, "en": 0.2, "pairs": 0.07}
    order = Order(7, "full", mixture, {"ko": 900, "en": 50_000, "pairs": 31})
    for start in (0, 1, 12_345):
        seen = Counter(order(i).source for i in range(start, start + SLOTS))
        assert seen == {name: round(share * SLOTS) for name, share in mixture.items()}
    short = Counter(order(i).source for i in range(100))
    assert abs(short["ko"] - 73) <= 1


def test_seeking_to_the_trillionth_sequence_takes_no_time() -> None:
    order = Order(7, "full", {"ko": 0.5, "en": 0.5}, {"ko": 10**10, "en": 3})
    begun = time.monotonic()
    assert order(10**12) == Order(7, "full", {"ko": 0.5, "en": 0.5}, {"ko": 10**10, "en": 3})(
        10**12
    )
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (16, 2)])
def test_every_sequence_of_a_step_goes_to_one_slot_whatever_the_world_size(
    world: int, micro: int
) -> None:
    share = Share.of(10, world, micro)
    rows = [
        row
        for turn in range(share.accumulation)
        for rank in range(world)
        for row in share.rows(turn, rank)
    ]
    assert [row for row in rows if row < 10] == list(range(10))
    assert len(set(rows)) == len(rows)


def sequences(tokens: Tokens, source: str, objective: str, length: int = 128) -> Sequences:
    plan = open_plan(tokens, source, length, objective)
    order = Order(7, "0", {source: 1.0}, {source: len(plan)})
    return Sequences(tokens, {source: plan}, order, length, objective)


def test_documents_in_one_sequence_do_not_see_each_other(tokens: Tokens) -> None:
    import torch
    from tiny_run import BASE

    torch.manual_seed(0)
    config = AutoConfig.for_model(**BASE, vocab_size=512)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    made = sequences(tokens, "ko", "pretrain")
    batch = made.batch([0, 1])
    with torch.no_grad():
        together = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits
        for row in range(2):
            starts = (batch.position_ids[row] == 0).nonzero().flatten().tolist()
            assert len(starts) > 1
            for low, high in zip(starts, [*starts[1:], 128], strict=True):
                alone = model(input_ids=batch.input_ids[row : row + 1, low:high]).logits[0]
                assert float((together[row, low:high] - alone).abs().max()) <= 1e-5


def test_targets_are_the_next_tokens_and_never_cross_into_another_document(tokens: Tokens) -> None:
    batch = sequences(tokens, "ko", "pretrain").batch([0])
    ids, positions, targets = (
        t[0].tolist() for t in (batch.input_ids, batch.position_ids, batch.targets)
    )
    for at, target in enumerate(targets):
        last = at + 1 == len(ids) or positions[at + 1] == 0
        if target == IGNORED:
            assert last or ids[at] == tokens.end
        else:
            assert not last and target == ids[at + 1] and target != tokens.begin


def test_a_chat_phase_learns_what_the_assistant_says_and_where_it_ends(
    tokens: Tokens, tiny_tokenizer: Path, tiny_documents: Path
) -> None:
    from dedup.documents import read_documents

    tokenizer = load_tokenizer(tiny_tokenizer)
    plan = make_plan(tokens.sets["dialogue", "train"], 128, "chat")
    made = sequences(tokens, "dialogue", "chat")
    batch = made.batch(list(range(len(plan))))
    learned = [t for t in batch.targets.flatten().tolist() if t != IGNORED]
    said = Counter(
        turn["text"]
        for rows in read_documents(tiny_documents, split="train", sources=["dialogue"])
        for segments in rows.column("segments").to_pylist()
        for turn in segments
        if turn["role"] == "assistant"
    )
    pieces = tokenizer.decode(learned).split("<|eot_id|>")
    assert not Counter(pieces[:-1]) - said
    assert sum(said.values()) - len(pieces) < 8  # cut by the end of a long dialogue


def test_a_slot_left_over_has_no_targets(tokens: Tokens) -> None:
    assert sequences(tokens, "ko", "pretrain").batch([None, None]).target_count == 0


def test_the_packing_of_random_lengths_never_loses_a_token() -> None:
    chance = random.Random(5)
    for _ in range(30):
        lengths = np.array([chance.randint(1, 90) for _ in range(chance.randint(1, 60))])
        plan = pack(cut(lengths, 32), 32)
        covered = np.zeros(int(lengths.sum()), int)
        starts = np.cumsum(lengths) - lengths
        for document, start, length in plan.pieces.tolist():
            covered[starts[document] + start : starts[document] + start + length] += 1
        assert (covered == 1).all()
