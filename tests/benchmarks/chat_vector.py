"""What adding a chat vector to an 8B checkpoint takes: memory and time.

    python tests/benchmarks/chat_vector.py [--layers 32] [--folder DIR]
       python tests/benchmarks/chat_vector.py --mergekit PYTHON

Three checkpoints of Llama-3-8B's shape are written as sparse files (zeros with real rows here and there,
four shards as on the hub), the continued one with 32,000 tokens more, and one is made of them in a
process of its own. What comes out is no hole: 17 GB for 32 layers. Printed: peak of anonymous memory
and of what is resident (read pages of the files count), seconds, MB/s of what is written.

--mergekit: the same models through mergekit's task arithmetic, by a Python that has it (its packages pin
others, so an environment of its own), on what it can do: one vocabulary, float32. Printed: the largest
difference of any weight, without the control tokens' rows, which mergekit scales as all others.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import new_rows
from new_rows import ADDED, BASE_TOKENS, AnonymousPeak, write_shape
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

CONTROLS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|eot_id|>"]  # fmt: skip
TEMPLATE = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>{% endfor %}"


def write_model(folder: Path, layers: int, tokens: int) -> None:
    new_rows.BASE_TOKENS = tokens
    write_shape(folder, layers)
    new_rows.BASE_TOKENS = BASE_TOKENS
    words = [f"w{number}" for number in range(BASE_TOKENS - len(CONTROLS))]
    more = [f"k{number}" for number in range(tokens - BASE_TOKENS)]
    vocabulary = {word: number for number, word in enumerate([*words, *CONTROLS, *more])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.add_special_tokens(CONTROLS)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROLS[0], eos_token=CONTROLS[1]
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)


def add(place: Path) -> None:
    """In a process of its own: make `out`, and print a JSON line of what it took."""
    from pretrain.weights.chat_vector import add_chat_vector

    watched = AnonymousPeak()
    time.sleep(0.02)
    before, started = watched.peak, time.monotonic()
    names = (str(place / name) for name in ("continued", "instruct", "base"))
    made = add_chat_vector(*names, 0.7, place / "out")
    seconds = time.monotonic() - started
    time.sleep(0.02)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"before": before, "anonymous": watched.peak, "resident": peak, "seconds": seconds}
    print(json.dumps(found | {"rows": made.rows}))


RECIPE = """
merge_method: task_arithmetic
base_model: {base}
models:
  - {{model: {continued}, parameters: {{weight: 1.0}}}}
  - {{model: {instruct}, parameters: {{weight: {ratio}}}}}
dtype: float32
"""


def beside_mergekit(python: Path, place: Path, ratio: float = 0.7) -> None:
    """Three small Llamas with one vocabulary, merged by both."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from pretrain.weights.chat_vector import add_chat_vector

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tiny_run import CONTROL, make_tokenizer

    torch.manual_seed(0)
    fields = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
    fields |= {"num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": False}
    names = {name: place / name for name in ("base", "instruct", "continued")}
    weights = None
    for folder in names.values():
        make_tokenizer(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = LlamaForCausalLM(LlamaConfig(**fields, vocab_size=len(tokenizer)))
        if weights is None:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            near = {n: v + 0.02 * torch.randn_like(v) for n, v in weights.items()}
            model.load_state_dict(near)
        model.save_pretrained(folder, max_shard_size="2MB")
    started = time.monotonic()
    add_chat_vector(
        *(str(names[n]) for n in ("continued", "instruct", "base")), ratio, place / "ours"
    )
    ours_took = time.monotonic() - started
    recipe = place / "recipe.yaml"
    recipe.write_text(RECIPE.format(**names, ratio=ratio))
    script = python.parent / "mergekit-yaml"
    started = time.monotonic()
    done = subprocess.run([script, recipe, place / "theirs"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    theirs_took = time.monotonic() - started

    def read(folder: Path) -> dict[str, torch.Tensor]:
        return {n: v for file in folder.glob("*.safetensors") for n, v in load_file(file).items()}

    ours, theirs = read(place / "ours"), read(place / "theirs")
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    control = AutoTokenizer.from_pretrained(names["base"]).convert_tokens_to_ids(list(CONTROL))
    largest, where, moved = 0.0, "", 0.0
    before = read(names["continued"])
    for name, value in ours.items():
        apart = (value - theirs[name]).abs()
        change = (value - before[name]).abs()
        if "embed_tokens" in name or "lm_head" in name:
            apart[control] = change[control] = 0
        moved = max(moved, float(change.max()))
        if float(apart.max()) >= largest:
            largest, where = float(apart.max()), name
    count = sum(value.numel() for value in ours.values())
    print(
        f"{len(ours)} tensors, {count / 1e6:.1f} M weights, ratio {ratio}: largest difference "
        f"{largest:.2e} ({where}); the vector moves weights by up to {moved:.3f}; ours "
        f"{ours_took:.1f} s, mergekit {theirs_took:.1f} s (with its start)"
    )
    if largest > 1e-6:
        sys.exit("they differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where there is room for 17 GB")
    parser.add_argument("--add", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="compare with mergekit")
    options = parser.parse_args()
    if options.add:
        add(options.add)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as found:
        place = Path(found)
        if options.mergekit:
            beside_mergekit(options.mergekit, place)
            return
        for name, tokens in (
            ("base", BASE_TOKENS),
            ("instruct", BASE_TOKENS),
            ("continued", BASE_TOKENS + ADDED),
        ):
            write_model(place / name, options.layers, tokens)
        command = [sys.executable, __file__, "--add", str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        took = json.loads(done.stdout.splitlines()[-1])
        size = sum(path.stat().st_size for path in (place / "out").glob("*.safetensors"))
        print(
            f"{options.layers} layers, {size / 1e9:.1f} GB written: peak {took['anonymous'] / 1e6:.2f} GB "
            f"anonymous ({took['before'] / 1e6:.2f} before it began), {took['resident'] / 1e6:.2f} GB "
            f"resident, {took['seconds']:.0f} s ({size / 1e6 / took['seconds']:.0f} MB/s); rows {took['rows']}"
        )


if __name__ == "__main__":
    main()
