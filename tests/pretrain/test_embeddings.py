"""New rows: their start, what stays as it was, and a checkpoint grown file by file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_run import BASE, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from configs.load import load
from configs.schema import NewRows
from pretrain.grow import main
from pretrain.weights.embeddings import Rows, grown_rows, read_new_tokens
from pretrain.weights.export import generation_config
from pretrain.weights.model import read_rows, write_base
from pretrain.weights.shards import open_checkpoint
from tokenizer.load import load_tokenizer

NEW = ["봄바람이", "강물소리", "마을길", "산은높다", "겨울바람"]
OLD = 400


def grown_tokenizer(base: Path, folder: Path) -> Path:
    """The base's tokenizer with NEW behind it, and its new_tokens.tsv."""
    tokenizer = load_tokenizer(base)
    lines = ["id\ttoken\ttext\tcount\tbase_ids"]
    for number, text in enumerate(NEW):
        ids = tokenizer.encode(text, add_special_tokens=False)
        lines.append(f"{OLD + number}\tt{number}\t{text}\t9\t{' '.join(map(str, ids))}")
    tokenizer.add_tokens(NEW)
    tokenizer.save_pretrained(str(folder))
    (folder / "new_tokens.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def model_of(dtype: torch.dtype = torch.float32, **fields: object) -> Any:
    torch.manual_seed(0)
    wanted = AutoConfig.for_model(**BASE | {"vocab_size": OLD} | fields)
    return AutoModelForCausalLM.from_config(wanted, dtype=dtype)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    return grown_tokenizer(make_tokenizer(folder / "base", OLD), folder / "grown")


def grow_folder(base: Path, tokenizer_folder: Path, out: Path, **fields: object) -> Rows:
    return write_base(
        str(base), load_tokenizer(tokenizer_folder), tokenizer_folder, NewRows(**fields), 7, out
    )


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder's safetensors files."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


# ── file by file ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["1GB", "30KB"])
def test_old_rows_and_all_other_tensors_keep_their_bytes(
    tied: bool, dtype: torch.dtype, shard: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(dtype, tie_word_embeddings=tied).save_pretrained(
        tmp_path / "base", max_shard_size=shard
    )
    rows = grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    before, after = stored(tmp_path / "base"), stored(tmp_path / "out")
    assert before.keys() == after.keys() and len(before) > 10
    assert (len(list((tmp_path / "base").glob("*.safetensors"))) > 1) == (shard == "30KB")
    grown = 0
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        if tensor.shape[0] == OLD:
            grown += 1
            assert after[name].shape == (rows.total, 32)
            assert raw(after[name][:OLD]) == raw(tensor)
        else:
            assert raw(after[name]) == raw(tensor)
    assert grown == (1 if tied else 2)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert loaded.config.vocab_size == rows.total and loaded.dtype == dtype


def test_a_shard_without_vocabulary_is_linked_and_the_index_says_the_new_size(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(tie_word_embeddings=False).save_pretrained(tmp_path / "base", max_shard_size="30KB")
    grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    names = {path.name for path in (tmp_path / "base").glob("*.safetensors")}
    linked = {
        name for name in names if (tmp_path / "base" / name).samefile(tmp_path / "out" / name)
    }
    assert 0 < len(linked) < len(names)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    tensors = stored(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert set(index["weight_map"]) == set(tensors)
    before = {name: (tmp_path / "base" / name).read_bytes() for name in names}
    shutil.rmtree(tmp_path / "out")
    assert before == {name: (tmp_path / "base" / name).read_bytes() for name in names}


@pytest.mark.parametrize("how", ["subtokens", "first", "mean", "random"])
def test_a_loaded_model_grows_to_the_same_bytes_as_its_files(
    how: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(torch.bfloat16, tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "base", other)
    (other / "model.safetensors").unlink()
    weights = load_file(tmp_path / "base" / "model.safetensors")
    torch.save(weights, other / "pytorch_model.bin")  # what can only be loaded
    assert (
        open_checkpoint(str(tmp_path / "base")) is not None and open_checkpoint(str(other)) is None
    )
    for base, out in ((tmp_path / "base", "by-file"), (other, "loaded")):
        grow_folder(base, tokenizer_folder, tmp_path / out, input=how, output=how)
    found, wanted = stored(tmp_path / "by-file"), stored(tmp_path / "loaded")
    assert {name: raw(t) for name, t in found.items()} == {
        name: raw(t) for name, t in wanted.items()
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "gpt2", "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 64},
        {"model_type": "gpt_neox"},
        {"model_type": "phi"},  # its head has a bias
        {"model_type": "gemma3_text", "head_dim": 16},
        {"model_type": "qwen3", "head_dim": 16},
    ],
    ids=lambda fields: fields["model_type"],
)
def test_other_architectures_grow_too(
    fields: dict[str, object], tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = model_of(**fields)
    model.save_pretrained(tmp_path / "base")
    rows = grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        old, new = model.eval()(input_ids=ids).logits, grown.eval()(input_ids=ids).logits
    assert new.shape[-1] == rows.total
    torch.testing.assert_close(new[..., :OLD], old, rtol=1e-4, atol=1e-5)


def test_rows_that_the_base_had_to_spare_are_used_before_any_is_added(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(vocab_size=448).save_pretrained(tmp_path / "base")
    rows = grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    assert rows == Rows(OLD, OLD + len(NEW), 448)
    (before,) = (t for t in stored(tmp_path / "base").values() if t.shape[0] == 448)
    (after,) = (t for t in stored(tmp_path / "out").values() if t.shape[0] == 448)
    assert raw(after[:OLD]) == raw(before[:OLD])
    parts = read_new_tokens(tokenizer_folder / "new_tokens.tsv")[OLD]
    torch.testing.assert_close(after[OLD], before[parts].mean(0))
    torch.testing.assert_close(after[447], before[:OLD].mean(0))


def test_memory_stays_below_a_vocabulary_matrix(tmp_path: Path) -> None:
    """A matrix of 400 MB in sparse files grows within 250 MB more than the imports take."""
    program = """
import json, struct, sys, threading, time
from pathlib import Path
import torch
from configs.schema import NewRows
from pretrain.weights.embeddings import Rows, grown_rows
from pretrain.weights.shards import Checkpoint, read_header, write_grown

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3

folder, shape = Path(sys.argv[1]), [50_000, 4096]
size = shape[0] * shape[1] * 2
header = json.dumps({"embed": {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
with (folder / "model.safetensors").open("wb") as out:
    out.write(struct.pack("<Q", len(header)) + header)
    out.truncate(8 + len(header) + size)
_, [stored] = read_header(folder / "model.safetensors")
files = {"model.safetensors": stored.file}
checkpoint = Checkpoint({}, None, files, {"embed": stored}, ("embed",), None, {})
rows = Rows.of(50_000, 54_000, 64, 50_000)
new = {50_000 + n: [n, n * 7 % 50_000, n * 13 % 50_000] for n in range(4_000)}
before, seen = anonymous(), []
def watch():
    while True:
        seen.append(anonymous())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
write_grown(checkpoint, rows, {"embed": grown_rows(stored.take(), rows, new, NewRows(), "input", 1)}, folder / "out")
print(max(seen) - before, (folder / "out" / "model.safetensors").stat().st_size)
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    more, size = map(float, done.stdout.split())
    assert more < 250 and size > 54_000 * 4096 * 2


# ── the start ───────────────────────────────────────────────────────────────────────────────────


def values(how: str, old: torch.Tensor, new: dict[int, list[int]], seed: int = 7) -> torch.Tensor:
    rows = Rows(len(old), len(old) + len(new), len(old) + len(new) + 3)
    config = NewRows(input=how)  # type: ignore[arg-type]
    return torch.cat(list(grown_rows(lambda ids: old[ids], rows, new, config, "input", seed)))


def test_each_method_starts_rows_where_it_says() -> None:
    torch.manual_seed(1)
    old = torch.randn(5_000, 8, dtype=torch.float64).float() * 3 + 1  # more than one block
    new = {5_000 + n: [n, (n * 7 + 1) % 5_000, n][: 1 + n % 3] for n in range(2_500)} | {7_500: []}
    assert list(new)[-1] == 7_500
    mean = old.double().mean(0).float()
    for how in ("subtokens", "first", "mean", "random"):
        found = values(how, old, new)
        assert found.shape == (2_501 + 3, 8)
        torch.testing.assert_close(found[-3:], mean.repeat(3, 1))
        if how == "subtokens":
            wanted = torch.stack([old[parts].mean(0) if parts else mean for parts in new.values()])
            torch.testing.assert_close(found[:-3], wanted)
        if how == "first":
            wanted = torch.stack([old[parts[0]] if parts else mean for parts in new.values()])
            torch.testing.assert_close(found[:-3], wanted)
        if how == "mean":
            torch.testing.assert_close(found, mean.repeat(len(found), 1))
        if how == "random":
            assert torch.equal(found, values(how, old, new))
            assert not torch.equal(found, values(how, old, new, seed=8))
            torch.testing.assert_close(found.std(0), old.std(0), rtol=0.1, atol=0)
            torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=0.3)


def test_input_and_output_are_chosen_apart(tokenizer_folder: Path, tmp_path: Path) -> None:
    model = model_of(tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "base")
    grow_folder(
        tmp_path / "base", tokenizer_folder, tmp_path / "out", input="subtokens", output="first"
    )
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    parts = read_new_tokens(tokenizer_folder / "new_tokens.tsv")[OLD]
    assert len(parts) > 1
    before = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    torch.testing.assert_close(
        grown.get_input_embeddings().weight[OLD], before[0].detach()[parts].mean(0)
    )
    assert torch.equal(grown.get_output_embeddings().weight[OLD], before[1][parts[0]])


@pytest.mark.parametrize("form", ["npy", "ids", "token", "text", "id"])
def test_vectors_of_ones_own_go_where_the_file_says(
    form: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = model_of(tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "base")
    own = torch.arange(len(NEW) * 32, dtype=torch.float32).reshape(len(NEW), 32)
    path = tmp_path / ("vectors.npy" if form == "npy" else "vectors.safetensors")
    named = [0, 2, 4]  # the others are not in the file
    if form == "npy":
        named = list(range(len(NEW)))
        np.save(path, own.numpy())
    elif form == "ids":
        save_file({"rows": own[named], "ids": torch.tensor([OLD + n for n in named])}, path)
    else:
        keys = {"token": lambda n: f"t{n}", "text": lambda n: NEW[n], "id": lambda n: str(OLD + n)}
        save_file({keys[form](n): own[n].clone() for n in named}, path)
    grow_folder(
        tmp_path / "base",
        tokenizer_folder,
        tmp_path / "out",
        output="given",
        output_vectors=str(path),
    )
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    head = grown.get_output_embeddings().weight.detach()
    base_ids = read_new_tokens(tokenizer_folder / "new_tokens.tsv")
    old = model.get_output_embeddings().weight.detach()
    for n in range(len(NEW)):
        wanted = own[n] if n in named else old[base_ids[OLD + n]].mean(0)
        torch.testing.assert_close(head[OLD + n], wanted)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.save(path, np.zeros((2, 32), np.float32)), r"must be floats \[5, 32\]"),
        (lambda path: np.save(path, np.full((5, 32), np.nan, np.float32)), "no number"),
        (lambda path: path.write_bytes(b"no array"), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    write: Any, message: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of().save_pretrained(tmp_path / "base")
    path = tmp_path / "vectors.npy"
    write(path)
    with pytest.raises(InputError, match=message):
        grow_folder(
            tmp_path / "base",
            tokenizer_folder,
            tmp_path / "out",
            input="given",
            input_vectors=str(path),
        )
    assert not (tmp_path / "out").exists()


def test_safetensors_without_any_of_the_tokens_or_of_another_width_are_refused(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of().save_pretrained(tmp_path / "base")
    for tensors, message in (
        ({"other": torch.zeros(32)}, "names none of the 5 new tokens"),
        ({NEW[1]: torch.zeros(16)}, r"is \[16\]; it must be \[32\]"),
        ({"rows": torch.zeros(2, 8), "ids": torch.tensor([OLD, OLD + 1])}, r"must be \[2, 32\]"),
    ):
        path = tmp_path / "vectors.safetensors"
        save_file(tensors, path)
        with pytest.raises(InputError, match=message):
            grow_folder(
                tmp_path / "base",
                tokenizer_folder,
                tmp_path / "out",
                input="given",
                input_vectors=str(path),
            )


def test_output_vectors_for_a_model_whose_head_is_its_embedding_are_refused(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="set input and input_vectors instead"):
        grow_folder(
            tmp_path / "base",
            tokenizer_folder,
            tmp_path / "out",
            output="given",
            output_vectors=str(tmp_path / "any.npy"),
        )


def test_given_and_its_file_go_together(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "name: x\npretrain:\n  base: {model_type: llama}\n  new_rows: {input: given}\n"
        "  phases: [{name: a, tokens: 1M, mixture: {ko: 1.0}}]\n"
    )
    with pytest.raises(InputError, match="input_vectors"):
        load(str(path))


# ── padding ─────────────────────────────────────────────────────────────────────────────────────


def test_padding_rows_are_never_produced_however_likely(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    assert rows.total > rows.vocabulary
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(0, OLD, (4, 8))
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state[:, -1].mean(0)
        model.get_output_embeddings().weight[rows.vocabulary :] = 100 * hidden
    model.generation_config = generation_config(load_tokenizer(tokenizer_folder), rows)
    model.generation_config.eos_token_id = None
    settings: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12}
    for sample in ({"do_sample": False}, {"do_sample": True, "top_k": 0}, {"num_beams": 3}):
        torch.manual_seed(3)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **settings, **sample)
        assert int(made[:, 8:].max()) < rows.vocabulary
    model.generation_config.suppress_tokens = None
    made = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert int(made[:, 8:].max()) >= rows.vocabulary  # so the test can tell


def test_padding_rows_hold_at_most_their_number_over_the_old_rows_of_the_probability() -> None:
    torch.manual_seed(2)
    for scale in (0.1, 1.0, 5.0):
        old = torch.randn(1_000, 16) * scale
        head = torch.cat([old, values("mean", old, {1_000: [1]})[-3:]])
        share = torch.softmax(torch.randn(200, 16) @ head.t(), -1)[:, 1_000:].sum(-1)
        assert float(share.max()) <= 3 / 1_000 + 1e-6


def test_training_pushes_padding_rows_down_and_never_names_them(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.randint(0, rows.vocabulary, (8, 32))
    shares = []
    for _ in range(80):
        found = model(input_ids=ids, labels=ids)
        share = found.logits.softmax(-1)[..., rows.vocabulary :].sum(-1).mean()
        shares.append(share.item())
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
    assert shares[-1] < shares[0] / 2


# ── damage ──────────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_checkpoint_is_named_and_nothing_is_left(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    model_of(tie_word_embeddings=False).save_pretrained(tmp_path / "whole", max_shard_size="30KB")
    first = sorted((tmp_path / "whole").glob("*.safetensors"))[0].name

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-10])

    def scribble(path: Path) -> None:
        path.write_bytes(b"\xff" * 100)

    for damage, message in (
        (cut, "bytes where its header names"),
        (scribble, "no safetensors file"),
        (Path.unlink, "is missing, which"),
    ):
        base = tmp_path / "base"
        shutil.copytree(tmp_path / "whole", base)
        damage(base / first)
        with pytest.raises(InputError, match=message) as found:
            grow_folder(base, tokenizer_folder, tmp_path / "out")
        assert first in str(found.value) and not (tmp_path / "out").exists()
        shutil.rmtree(base)


def test_a_killed_growth_is_made_anew(tokenizer_folder: Path, tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path / "base")
    left = tmp_path / "out.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    grow_folder(tmp_path / "base", tokenizer_folder, tmp_path / "out")
    assert not left.exists()
    with safe_open(str(tmp_path / "out" / "model.safetensors"), framework="pt") as tensors:
        assert len(list(tensors.keys())) > 10


def test_base_ids_that_are_no_base_tokens_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "new_tokens.tsv"
    path.write_text("id\ttoken\ttext\tcount\tbase_ids\n400\tx\tx\t1\t3 401\n")
    with pytest.raises(InputError, match="token 400 is made of"):
        read_new_tokens(path)


# ── for another trainer ─────────────────────────────────────────────────────────────────────────


def test_a_grown_folder_is_a_model_with_its_tokenizer_and_pads_suppressed(
    tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_of(tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    command = [str(tmp_path / "base"), str(tokenizer_folder), str(tmp_path / "out")]
    assert main([*command, "--output", "first"]) == 0
    assert "400 old rows as they were, 5 new, 43 of padding" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert max(tokenizer.get_vocab().values()) < model.config.vocab_size == 448
    assert model.generation_config.suppress_tokens == list(range(405, 448))
    assert model.generation_config.eos_token_id is not None
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert main(command) == 2 and "exists" in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert main([str(tmp_path / "none"), *command[1:2], str(tmp_path / "other")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
