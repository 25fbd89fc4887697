"""What `/metrics` says, in Prometheus' text form.

In: what the server notes of each request, and how busy its backends are. Out: one text, version
0.0.4 of the exposition format. Three families of numbers are all there is, so no client library.

The decision: time to first token and time per token are taken where the server hands the text on,
so they hold for any backend, and hold what a client waits for. Written to from the event loop only.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from launch.chat.backend import Backend

FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)  # seconds
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of observed seconds, by upper bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.sum += seconds * times

    def lines(self, name: str) -> Iterable[str]:
        below = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f'{name}_bucket{{le="+Inf"}} {sum(self.counts)}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {sum(self.counts)}"


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()  # path and status → requests
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.left = 0  # clients that closed the connection before their answer was whole
        self.first_token = Histogram(FIRST_TOKEN)
        self.per_token = Histogram(PER_TOKEN)

    def text(self, backends: Mapping[str, Backend]) -> str:
        """The page Prometheus reads."""
        loads = {name: backend.load() for name, backend in backends.items()}
        lines = [
            *_head("malmoi_requests_total", "counter", "Answers by path and HTTP status."),
            *(
                f'malmoi_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.answers.items())
            ),
            *_head("malmoi_disconnects_total", "counter", "Clients that left before the end."),
            f"malmoi_disconnects_total {self.left}",
            *_head("malmoi_prompt_tokens_total", "counter", "Tokens of prompts taken in."),
            f"malmoi_prompt_tokens_total {self.prompt_tokens}",
            *_head("malmoi_generated_tokens_total", "counter", "Tokens made."),
            f"malmoi_generated_tokens_total {self.generated_tokens}",
            *_head("malmoi_requests_running", "gauge", "Replies being made."),
            *(_gauge("malmoi_requests_running", name, at.running) for name, at in loads.items()),
            *_head("malmoi_requests_waiting", "gauge", "Replies not begun."),
            *(_gauge("malmoi_requests_waiting", name, at.waiting) for name, at in loads.items()),
            *_head("malmoi_cache_used_ratio", "gauge", "Share of the key and value cache in use."),
            *(
                _gauge("malmoi_cache_used_ratio", name, round(at.cache, 4))
                for name, at in loads.items()
                if at.cache is not None
            ),
            *_head("malmoi_first_token_seconds", "histogram", "From request to first text."),
            *self.first_token.lines("malmoi_first_token_seconds"),
            *_head("malmoi_token_seconds", "histogram", "Between tokens of a reply."),
            *self.per_token.lines("malmoi_token_seconds"),
        ]
        return "\n".join(lines) + "\n"


class Clock:
    """Times one request's tokens into a server's metrics."""

    def __init__(self, metrics: Metrics, prompt_tokens: int) -> None:
        self.metrics = metrics
        self.last: dict[int, tuple[float, int]] = {}  # choice → when its latest came, how many then
        self.begun = time.monotonic()
        metrics.prompt_tokens += prompt_tokens

    def note(self, choice: int, tokens: int) -> None:
        """Choice `choice` has `tokens` tokens now."""
        now = time.monotonic()
        when, had = self.last.get(choice, (None, 0))
        made = tokens - had
        if made <= 0:
            return
        self.last[choice] = now, tokens
        self.metrics.generated_tokens += made
        if when is None:
            self.metrics.first_token.observe(now - self.begun)
        else:
            self.metrics.per_token.observe((now - when) / made, made)


def _head(name: str, kind: str, says: str) -> tuple[str, str]:
    return f"# HELP {name} {says}", f"# TYPE {name} {kind}"


def _gauge(name: str, model: str, value: float) -> str:
    label = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}{{model="{label}"}} {value}'
