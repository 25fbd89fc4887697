"""How fast the chat server is, beside `generate` of the same model, in one run.

    python tests/benchmarks/chat_serving.py [--threads N] [--only rate,long,many,decode]

A random Llama of 85 M parameters with a vocabulary of 160,000 is made (seeded, kept under --folder).
The server runs as its own process, as `malmoi chat --serve` starts it; everything is read over HTTP,
streaming. Rounds of `generate` and of the server take turns, so that both meet the same machine; the
best round of each counts. What is printed, and what it should be:

- 1 stream against bare `generate`: rate (0.9 or more), first token (1.5 or less);
- 8 and 16 streams against the server's own single stream (4 and 5.5 or more);
- the longest wait for a token of running streams while a prompt of 4,000 tokens comes in, against
  the time its chunk takes (1 or less, beside the ordinary wait);
- 64 streams at once: none fails, each equals its own text when alone;
- text from tokens, stop strings watched for, in microseconds a token (10 or less).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

PROMPT_TOKENS, NEW_TOKENS = 30, 64
VOCABULARY = 160_000
CONTROL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
CONFIG = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 11,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def make_model(folder: Path) -> Path:
    """A random model and a tokenizer of Hangul words, at `folder`; kept where it is there."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from launch.chat.decoding import _byte_alphabet
    from tokenizer.chat import CHAT_TEMPLATE

    chance = random.Random(1)
    letter = {byte: character for character, byte in _byte_alphabet().items()}
    vocabulary = {character: index for index, character in enumerate(sorted(letter.values()))}
    while len(vocabulary) < VOCABULARY - len(CONTROL):
        word = "".join(chr(chance.randrange(0xAC00, 0xD7A4)) for _ in range(chance.randint(1, 3)))
        space = " " if chance.random() < 0.5 else ""
        written = "".join(letter[byte] for byte in (space + word).encode())
        vocabulary.setdefault(written, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[0], eos_token=CONTROL[-1]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            initializer_range=0.06,
            bos_token_id=wrapped.bos_token_id,
            eos_token_id=wrapped.eos_token_id,
            **CONFIG,
        )
    )
    model.save_pretrained(folder)
    return folder


def prompts(count: int, tokens: int = PROMPT_TOKENS, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(300, VOCABULARY - 300) for _ in range(tokens)] for _ in range(count)]


# ------------------------------------------------------------------------------------- streams


class Stream:
    """One reply read over HTTP: its text, when each piece came, how many tokens it was."""

    def __init__(self) -> None:
        self.text = ""
        self.times: list[float] = []
        self.tokens = 0
        self.failed = ""

    async def read(self, port: int, prompt: list[int], tokens: int) -> Stream:
        from launch.chat.upstream import post_events

        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        self.begun = time.perf_counter()
        async for chunk in post_events(port, "/v1/completions", body, "none"):
            if "error" in chunk:
                self.failed = str(chunk)
            if chunk.get("usage"):
                self.tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk.get("choices", ()):
                if choice["text"]:
                    self.text += choice["text"]
                    self.times.append(time.perf_counter())
        return self


async def at_once(port: int, what: list[list[int]], tokens: int) -> tuple[list[Stream], float]:
    """All prompts at once; the streams, and tokens per second over all of them."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(Stream().read(port, prompt, tokens) for prompt in what))
    seconds = time.perf_counter() - started
    return list(streams), sum(s.tokens for s in streams) / seconds


class ServerProcess:
    """`malmoi chat MODEL --serve` on a free port."""

    def __init__(self, model: Path, threads: int) -> None:
        words = [sys.executable, "-m", "launch.cli", "chat", str(model), "--serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*words, "--threads", str(threads)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stderr is not None
        found = None
        while found is None:
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit("the server ended before it listened")
            found = re.search(r"http://[\d.]+:(\d+)", line)
        self.port = int(found[1])

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


# --------------------------------------------------------------------------------------- parts


def rates(port: int, model: Any, rounds: int) -> dict[str, float]:
    """Bare `generate` and 1, 8 and 16 streams, in turns."""
    import torch

    def bare(prompt: list[int], tokens: int) -> float:
        ids = torch.tensor([prompt])
        started = time.perf_counter()
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return time.perf_counter() - started

    best: dict[str, float] = {}

    def note(name: str, value: float, *, least: bool = False) -> None:
        best[name] = value if name not in best else (min if least else max)(best[name], value)

    bare(prompts(1)[0], 4)
    asyncio.run(at_once(port, prompts(2, seed=9), 4))
    for number in range(rounds):
        for prompt in prompts(2, seed=100 + number):
            note("bare rate", NEW_TOKENS / bare(prompt, NEW_TOKENS))
            note("bare first", bare(prompt, 1), least=True)
        for prompt in prompts(2, seed=200 + number):
            streams, rate = asyncio.run(at_once(port, [prompt], NEW_TOKENS))
            note("1 stream", rate)
            note("first", streams[0].times[0] - streams[0].begun, least=True)
        for count in (8, 16):
            what = prompts(count, seed=1000 * count + number)
            note(f"{count} streams", asyncio.run(at_once(port, what, NEW_TOKENS))[1])
    return best


def say_rates(best: dict[str, float]) -> None:
    one, bare = best["1 stream"], best["bare rate"]
    first = 1000 * best["first"], 1000 * best["bare first"]
    print(f"bare generate        {bare:7.1f} tokens/s, first token {first[1]:6.1f} ms")
    print(
        f"1 stream             {one:7.1f} tokens/s, first token {first[0]:6.1f} ms   "
        f"ratios {one / bare:.2f} (0.9 or more), {first[0] / first[1]:.2f} (1.5 or less)"
    )
    for count, target in ((8, 4.0), (16, 5.5)):
        rate = best[f"{count} streams"]
        print(
            f"{count:<2} streams           {rate:7.1f} tokens/s   "
            f"ratio to one stream {rate / one:.2f} ({target} or more)"
        )


def long_prompt(port: int) -> None:
    """Four running streams, and a prompt of 4,000 tokens that comes in between."""

    async def run() -> tuple[list[Stream], float, float]:
        running = [Stream() for _ in range(4)]
        tasks = [
            asyncio.ensure_future(stream.read(port, prompt, 160))
            for stream, prompt in zip(running, prompts(4, seed=7), strict=True)
        ]
        while min(len(stream.times) for stream in running) < 20:
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        await Stream().read(port, prompts(1, 4000, seed=8)[0], 1)
        ended = time.perf_counter()
        await asyncio.gather(*tasks)
        return running, began, ended

    def alone(tokens: int) -> float:
        def once(seed: int) -> float:
            began = time.perf_counter()
            asyncio.run(at_once(port, prompts(1, tokens, seed), 1))
            return time.perf_counter() - began

        return min(once(tokens), once(tokens + 1))

    prefill = alone(4000)
    chunk = (prefill - alone(4000 - 4 * CHUNK)) / 4  # of the last four, which look back furthest
    running, began, ended = asyncio.run(run())
    calm, beside = [], []
    for stream in running:
        for before, after in zip(stream.times, stream.times[1:], strict=False):
            (beside if after > began and before < ended else calm).append(after - before)
    print(
        f"4,000-token prompt   alone {prefill:.2f} s, a late chunk of {CHUNK} {1000 * chunk:.0f} ms; "
        f"waits of 4 running streams: calm {1000 * median(calm):.0f} ms, beside it median "
        f"{1000 * median(beside):.0f}, longest {1000 * max(beside):.0f} ms   "
        f"added wait / chunk {(max(beside) - median(calm)) / chunk:.2f} longest, "
        f"{(median(beside) - median(calm)) / chunk:.2f} median"
    )


def many(port: int) -> None:
    """64 streams at once against each alone."""
    what, tokens = prompts(64, seed=11), 12
    alone = [asyncio.run(at_once(port, [prompt], tokens))[0][0].text for prompt in what]
    streams, rate = asyncio.run(at_once(port, what, tokens))
    failed = sum(bool(s.failed) or s.tokens != tokens for s in streams)
    same = sum(s.text == text for s, text in zip(streams, alone, strict=True))
    first = sorted(s.times[0] - s.begun for s in streams)
    print(
        f"64 streams           {rate:7.1f} tokens/s, failed {failed}, equal to their own text "
        f"alone {same} of 64, first token median {1000 * median(first):.0f} ms"
    )


def decode(folder: Path) -> None:
    """Tokens to text, byte-exact, a stop string watched for."""
    from transformers import AutoTokenizer

    from launch.chat.decoding import TextStream, token_bytes

    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = token_bytes(tokenizer)
    chance = random.Random(3)
    ids = [chance.randrange(VOCABULARY - len(CONTROL)) for _ in range(200_000)]
    for stop in ((), ("끝입니다", "\n\nUser:")):
        stream = TextStream(pieces, stop)
        started = time.perf_counter()
        text = "".join([stream.push(token) for token in ids]) + stream.flush()
        micro = 1e6 * (time.perf_counter() - started) / len(ids)
        whole = b"".join(pieces[i] or b"" for i in ids).decode("utf-8", "replace")
        exact = "exact" if stream.stopped or text == whole else "WRONG"
        print(
            f"text of a token      {micro:7.2f} µs with {len(stop)} stop strings, {exact} (10 or less)"
        )


CHUNK = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "chat-serving")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="rate,long,many,decode")
    parser.add_argument("--json", type=Path, help="write the rates here too")
    asked = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parts = asked.only.split(",")
    folder = make_model(asked.folder)
    print(f"{asked.threads} threads, prompt {PROMPT_TOKENS} tokens, {NEW_TOKENS} new, greedy")
    if "decode" in parts:
        decode(folder)
    if not {"rate", "long", "many"} & set(parts):
        return
    with ServerProcess(folder, asked.threads) as server:
        if "rate" in parts:
            import torch

            from launch.chat.loading import load

            torch.set_num_threads(asked.threads)
            best = rates(server.port, load(folder)[0], asked.rounds)
            say_rates(best)
            if asked.json:
                asked.json.write_text(json.dumps(best))
        if "long" in parts:
            long_prompt(server.port)
        if "many" in parts:
            many(server.port)


if __name__ == "__main__":
    main()
