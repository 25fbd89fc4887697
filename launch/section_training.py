"""The training of report.html: metrics.jsonl and pretrain/report.json → curves and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launch.charts import Band, Point, Series, line_chart, scatter, smooth, thin
from launch.console import amount, duration
from launch.figures import Entry, counts, entries, entry, number

TOY = 100_000_000  # parameters below which a model is called a toy
DOTS = 1500  # single steps drawn in the loss chart
SMALL_DOTS = 400  # and in a small chart
CURVE = 500  # points of a drawn line
SPANS = 40  # smoothing takes the mean over 1/SPANS of the steps
LANGUAGES = {"ko": "Korean", "en": "English"}


def training(report: Entry | None, metrics: Sequence[Entry], config: Entry) -> Entry | None:
    """Curves by optimizer step and the tables beside them; half a training is shown as far as it got."""
    if report is None and not metrics:
        return None
    report = report or {}
    steps = [record for record in metrics if number(record.get("loss")) is not None]
    span = max(1, len(steps) // SPANS)
    bands, lines = [], []
    for name, records in _phases(steps):
        curve = _curve(records, "loss")
        bands.append(Band(name, curve[0][0], curve[-1][0]))
        lines.append(Series("mean of the steps around", _spread(smooth(curve, span)), "ko"))
    charts = {
        "loss": line_chart(
            [Series("loss of the step", scatter(_curve(steps, "loss"), DOTS), "raw", True), *lines],
            x_label="optimizer step",
            y_label="loss, nats per token",
            bands=bands if len(bands) > 1 else (),
            height=280,
        ),
        "learning_rate": line_chart(
            [Series("learning rate", thin(_curve(metrics, "learning_rate"), CURVE), "plain")],
            x_label="optimizer step",
            y_label="learning rate",
            height=120,
            zero=True,
        ),
        "tokens_per_second": _noisy(
            _curve(metrics, "tokens_per_second"), "tokens per second", span
        ),
        "grad_norm": _noisy(_curve(metrics, "grad_norm"), "gradient norm", span),
    }
    bits = entry(report.get("bits_per_byte"))
    before, after = counts(bits.get("before")), counts(bits.get("after"))
    languages = _languages(config)
    evaluations = [
        (step, counts(record["bits_per_byte"]))
        for record in metrics
        if "bits_per_byte" in record and (step := number(record.get("step"))) is not None
    ]
    speeds = sorted(y for _, y in _curve(metrics, "tokens_per_second"))
    return {
        "charts": charts,
        "bands": [{"name": band.name, "first": band.first, "last": band.last} for band in bands],
        "panels": _bits_panels(evaluations, before, after, languages),
        "steps": len(steps),
        "phases": [
            {
                "name": str(phase.get("name") or ""),
                "steps": number(phase.get("steps")),
                "tokens": number(phase.get("tokens")),
                "loss_first": number(phase.get("loss_first")),
                "loss_last": number(phase.get("loss_last")),
            }
            for phase in entries(report.get("phases"))
        ],
        "facts": _facts(report, speeds),
        "toy": (parameters := number(report.get("parameters"))) is not None and parameters < TOY,
        "parameters": parameters,
        "finished": bool(report),
        "forgotten": _forgotten(config, evaluations),
    }


def _noisy(curve: Sequence[Point], label: str, span: int) -> str:
    """A small chart of dots with their mean; it starts at zero."""
    return line_chart(
        [
            Series(f"{label}, the step", scatter(curve, SMALL_DOTS), "raw", True),
            Series("mean of the steps around", _spread(smooth(curve, span)), "plain"),
        ],
        x_label="optimizer step",
        y_label=label,
        height=120,
        zero=True,
    )


def _facts(report: Entry, speeds: Sequence[float]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for key, label in (
        ("parameters", "parameters"),
        ("vocab_size", "vocabulary"),
        ("tokens", "tokens trained on"),
    ):
        if (figure := number(report.get(key))) is not None:
            facts.append((label, amount(figure)))
    if (seconds := number(report.get("seconds"))) is not None:
        facts.append(("time", duration(seconds)))
    if speeds:
        facts.append(("tokens per second, median", f"{speeds[len(speeds) // 2]:,.0f}"))
    for key, label in (
        ("world_size", "ranks"),
        ("zero_stage", "ZeRO stage"),
        ("dtype", "number format"),
        ("resumed", "resumptions"),
    ):
        if (value := report.get(key)) is not None:
            facts.append((label, str(value)))
    return facts


def _phases(steps: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """Runs of steps of the same phase, in order."""
    start = 0
    for at in range(1, len(steps) + 1):
        if at == len(steps) or steps[at].get("phase") != steps[start].get("phase"):
            yield str(steps[start].get("phase", "")), list(steps[start:at])
            start = at


def _curve(records: Sequence[Entry], key: str) -> list[Point]:
    return [
        (step, figure)
        for record in records
        if (figure := number(record.get(key))) is not None
        and (step := number(record.get("step"))) is not None
    ]


def _spread(points: Sequence[Point]) -> list[Point]:
    """Evenly spaced points of a smooth line, its two ends among them."""
    if len(points) <= CURVE:
        return list(points)
    return [points[round(at * (len(points) - 1) / (CURVE - 1))] for at in range(CURVE)]


def _languages(config: Entry) -> dict[str, str]:
    """Source name → "ko" or "en", as the config has it."""
    return {
        str(source.get("name")): str(source.get("language", "ko"))
        for source in entries(entry(config.get("dedup")).get("sources"))
    }


def _forgotten(config: Entry, evaluations: Sequence[tuple[float, dict[str, float]]]) -> list[Entry]:
    """Held-out text that rose beyond the config's limit: by how much at most, from which step on."""
    settings = entry(entry(entry(config.get("pretrain")).get("evaluate")).get("forgetting"))
    limit, source = number(settings.get("limit")), settings.get("source")
    if limit is None or not evaluations:
        return []
    start = evaluations[0][1]
    found = []
    for name in source if isinstance(source, list) else [source]:
        rises = [
            (step, bits[name] / start[name] - 1)
            for step, bits in evaluations
            if name in bits and start.get(name)
        ]
        over = [(step, rise) for step, rise in rises if rise > limit]
        if over:
            most = max(rise for _, rise in over)
            found.append({"name": name, "step": over[0][0], "rise": most, "limit": limit})
    return found


def _bits_panels(
    evaluations: Sequence[tuple[float, dict[str, float]]],
    before: dict[str, float],
    after: dict[str, float],
    languages: dict[str, str],
) -> list[Entry]:
    """One chart per language on a shared y axis: the language's mean thick, its sources thin."""
    names = list(
        dict.fromkeys([*before, *after, *(name for _, bits in evaluations for name in bits)])
    )
    panels: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (name not in LANGUAGES, names.index(name))):
        language = name if name in LANGUAGES else languages.get(name, "")
        panels.setdefault(language if language in LANGUAGES else "", []).append(name)
    seen = [y for _, bits in evaluations for y in bits.values()]
    shared = (min(seen), max(seen)) if seen else None
    out = []
    for language in sorted(panels, key=[*LANGUAGES, ""].index):
        rows, series = [], []
        thin_lines = 0
        for name in panels[language]:
            style = f"{language or 'plain'} mean"
            if name != language:
                style = f"{language or 'plain'} source d{thin_lines % 4}"
                thin_lines += 1
            points = [(step, bits[name]) for step, bits in evaluations if name in bits]
            title = f"all {LANGUAGES[name]}" if name in LANGUAGES else name
            series.append(Series(title, thin(points, CURVE), style))
            start, end = before.get(name), after.get(name)
            change = (end - start) / start if start and end is not None else None
            rows.append(
                {"name": title, "style": style, "before": start, "after": end, "change": change}
            )
        chart = line_chart(
            series[::-1], x_label="optimizer step", y_label="bits per byte, held-out", height=200, y_range=shared
        )  # fmt: skip
        out.append(
            {"title": LANGUAGES.get(language, "Other sources"), "chart": chart, "rows": rows}
        )
    return out
