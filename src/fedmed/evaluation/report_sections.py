"""The sections of the report, one function each: summary in, markup out; "" where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedmed.evaluation import report_parts as part
from fedmed.evaluation.line_chart import line_chart

Json = dict[str, Any]

_ROLES = {
    "base": ("Base model", "as it came, no training"),
    "few_shot": ("Base with worked examples", "the form of an answer, shown in the prompt"),
    "local": ("Each hospital alone", "its own records only, scored on its own held-out records"),
    "federated": ("Federated", "this run"),
    "central": ("Central", "all records in one place, the same tokens and steps"),
    "shuffled": ("Shuffled answers", "the same training on wrong answers: form without content"),
}
_PHASES = {
    "load": "Loading the model",
    "baseline_eval": "Scoring the base model",
    "train": "Training",
    "eval": "Scoring the result",
    "total": "Whole run",
}


def headline(summary: Json) -> str:
    """Base to federated loss, and how much of the fall worked examples give by themselves."""
    base, federated = part.number(summary, "loss", "base"), part.number(summary, "loss", "federated")
    few_shot = part.number(summary, "evaluation", "few_shot", "loss")
    examples = part.number(summary, "evaluation", "few_shot", "examples")
    shown = f"Base with {_examples(examples)}" if examples else "Base with worked examples"
    if base is None or federated is None:
        only = part.bars([("Base model", base, False), (shown, few_shot, False), ("Federated", federated, True)])
        return only and only + part.MISSING
    low, high = part.number(summary, "gain", "low"), part.number(summary, "gain", "high")
    between = "" if low is None or high is None else f" (95\u202f% interval {100 * low:.1f} to {100 * high:.1f}\u202f%)"
    relative = part.number(summary, "gain", "relative")
    relative = (base - federated) / base if relative is None and base else relative
    falls = "" if relative is None else f"{abs(100 * relative):.1f}\u202f% {'lower' if relative >= 0 else 'higher'}"
    return (
        f'<p class="headline"><span class="figure">{base:.3f} → {federated:.3f}</span>'
        f'<span class="fall">{falls}</span></p>'
        f'<p class="note">Held-out loss, base model to federated adapter{between}. '
        "Nats per answer token over records that no hospital trained on; lower is better.</p>"
        + part.bars([("Base model", base, False), (shown, few_shot, False), ("Federated", federated, True)])
        + _few_shot_sentence(summary, base, federated, few_shot, examples)
        + _end_token_sentence(summary)
    )


def _few_shot_sentence(
    summary: Json, base: float, federated: float, few_shot: float | None, examples: float | None
) -> str:
    if few_shot is None:
        return '<p class="missing">The base model with worked examples in its prompt was not measured in this run.</p>'
    given = part.number(summary, "gain", "few_shot_share")
    if given is None and base > federated:
        given = (base - few_shot) / (base - federated)
    if given is None:
        return ""
    many = _examples(examples) if examples else "Worked examples"
    one = examples == 1
    give, lower, themselves = ("gives", "lowers", "itself") if one else ("give", "lower", "themselves")
    if given <= 0:
        return f"<p>{many} in the base model's prompt {give} none of that fall by {themselves}.</p>"
    if given >= 1:
        return (
            f"<p>{many} in the base model's prompt {lower} the loss as far as training did, or further: "
            "the fall does not show that training added knowledge.</p>"
        )
    return (
        f"<p>{many} in the base model's prompt {give} <strong>{part.share(given)}</strong> of that fall by "
        f"{themselves}: that part may be the form of an answer.</p>"
    )


def _examples(count: float) -> str:
    return f"{count:.0f} worked example{'s' * (count != 1)}"


def _end_token_sentence(summary: Json) -> str:
    """The fall without what a model gains by learning that answers end."""
    base = part.number(summary, "loss", "without_end_token", "base")
    federated = part.number(summary, "loss", "without_end_token", "federated")
    if base is None or federated is None:
        return ""
    return (
        f"<p>Without the token that ends an answer, which a base model does not expect: {base:.3f} → {federated:.3f}, "
        f"{part.share(1 - federated / base)} lower.</p>"
    )


def hospitals(summary: Json) -> str:
    """One row a hospital: records, base, worked examples, federated, fall."""
    losses = part.table_of(summary, "loss", "per_hospital")
    listed = [entry for entry in part.list_of(summary, "hospitals") if isinstance(entry, dict)]
    names = list(dict.fromkeys([*(str(entry.get("name")) for entry in listed), *losses]))
    if not names:
        return ""
    records = {str(entry.get("name")): part.number(entry, "num_samples") for entry in listed}
    rows = []
    for name in names:
        base = part.number(losses, name, "base")
        after = part.number(losses, name, "federated")
        after = part.number(losses, name) if after is None else after
        few_shot = part.number(summary, "evaluation", "few_shot", "per_hospital", name)
        rows.append(_hospital_row(part.esc(name), records.get(name), base, few_shot, after))
    known = [value for value in records.values() if value is not None]
    overall = _hospital_row(
        "All",
        sum(known) if len(known) == len(names) else None,
        part.number(summary, "loss", "base"),
        part.number(summary, "evaluation", "few_shot", "loss"),
        part.number(summary, "loss", "federated"),
    )
    unshared = ""
    if not losses and part.number(summary, "loss", "federated") is not None:
        unshared = '<p class="missing">Losses of single hospitals were not shared in this run.</p>'
    head = ["Hospital", "Training records", "Base", "With examples", "Federated", "Change"]
    return unshared + part.table("Held-out loss at each hospital", head, [*rows, overall], optional=(1, 3), total=True)


def _hospital_row(
    name: str, records: float | None, base: float | None, few_shot: float | None, after: float | None
) -> list[str]:
    return [name, part.count(records), part.loss(base), part.loss(few_shot), part.loss(after), part.fall(base, after)]


def curves(summary: Json, rounds: Sequence[Json]) -> str:
    """Training loss by round, and held-out loss by round where it was measured in between."""
    training = _series(rounds, "loss")
    held_out = _series(rounds, "held_out")
    for name, points in held_out.items():
        base = part.number(summary, "loss", "per_hospital", name, "base")
        if base is not None and points[0][0] > 0:
            points.insert(0, (0, base))
    body = ""
    if training:
        about = f"Mean training loss of {len(training)} hospitals, in nats per answer token."
        body += '<p class="note">Training loss at each hospital, mean over the steps of a round.</p>'
        body += line_chart("training", "Training loss by round and hospital", about, training)
    if held_out:
        about = f"Held-out loss of the global adapter at {len(held_out)} hospitals, in nats per answer token."
        body += "<h3>Held-out</h3>"
        body += '<p class="note">Loss of the global adapter after a round; round 0 is the base model.</p>'
        body += line_chart("held-out", "Held-out loss by round and hospital", about, held_out)
    return body


def _series(rounds: Sequence[Json], key: str) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    for line in sorted(rounds, key=lambda line: part.number(line, "round") or 0):
        at, value = part.number(line, "round"), part.number(line, key)
        if at is not None and value is not None:
            series.setdefault(str(line.get("hospital")), []).append((int(at), value))
    return dict(sorted(series.items()))


def comparison(summary: Json) -> str:
    """The references of ``--compare`` beside base and federated."""
    compared = part.table_of(summary, "comparison")
    if not compared:
        return ""
    base = part.number(summary, "loss", "base")
    losses = {
        "base": base,
        "few_shot": part.number(summary, "evaluation", "few_shot", "loss"),
        "federated": part.number(summary, "loss", "federated"),
        **{name: part.number(compared, name, "loss") for name in ("local", "central", "shuffled")},
    }
    rows = [
        [
            f"{title}<small>{about}</small>",
            part.loss(losses[key]),
            "" if key == "base" else part.fall(base, losses[key]),
        ]
        for key, (title, about) in _ROLES.items()
        if losses[key] is not None
    ]
    return part.table("Held-out loss by way of training", ["Trained how", "Held-out loss", "Change"], rows)


def answers(summary: Json) -> str:
    """Multiple choice with intervals, and ROUGE-L."""
    body = ""
    chosen = part.table_of(summary, "evaluation", "multiple_choice")
    lines = ""
    for key, name in (("base", "Base model"), ("federated", "Federated")):
        accuracy = part.number(chosen, key, "accuracy")
        if accuracy is not None:
            low, high = part.number(chosen, key, "low"), part.number(chosen, key, "high")
            lines += part.interval(name, accuracy, low, high, 0.25)
    body += "<h3>Multiple choice</h3>"
    if lines:
        total = part.number(chosen, "federated", "total") or part.number(chosen, "base", "total")
        asked = f" over {total:.0f} questions" if total else ""
        body += (
            f'<p class="note">The true definition against three of the same specialty{asked}, by likelihood, '
            "with 95\u202f% intervals. The upright mark is chance, 25\u202f%.</p>"
            f'<div class="bars">{lines}</div>'
        )
    else:
        body += part.MISSING
    base, federated = (part.number(summary, "evaluation", "rouge_l", key) for key in ("base", "federated"))
    body += "<h3>ROUGE-L</h3>"
    if base is None and federated is None:
        return body + part.MISSING
    answered = part.number(summary, "evaluation", "rouge_l", "n")
    over = f" over {answered:.0f} questions" if answered else ""
    return (
        body
        + f'<p class="note">Overlap of written answers with the true ones{over}, 0 to 1.</p>'
        + part.facts([("Base model", part.loss(base)), ("Federated", part.loss(federated))])
    )


def samples(summary: Json) -> str:
    """Answers as a person would get them, with the guardrails' verdict."""
    body = ""
    for sample in part.list_of(summary, "samples"):
        if not isinstance(sample, dict):
            continue
        allowed = sample.get("allowed") is True
        confidence = part.number(sample, "confidence")
        about = "" if sample.get("calibrated") is not False else " (not calibrated)"
        sure = "" if confidence is None else f" · confidence {confidence:.2f}{about}"
        reasons = "; ".join(part.esc(reason) for reason in part.list_of(sample, "reasons"))
        body += (
            f'<div class="sample{"" if allowed else " withheld"}">'
            f'<p class="question">{part.esc(sample.get("question"))}</p>'
            f'<p class="answer">{part.esc(sample.get("answer"))}</p>'
            f'<p class="note"><span class="verdict">{"Shown" if allowed else "Withheld"}</span>{sure}'
            f"{' · ' + reasons if reasons else ''}</p></div>"
        )
    return body and f'<p class="note">Written by the federated model and passed through the guardrails.</p>{body}'


def costs(summary: Json) -> str:
    """Bytes, time and memory."""
    trained, tokens = part.number(summary, "wall_s", "train"), part.number(summary, "train_tokens")
    peak = part.number(summary, "peak_rss_mb")
    pairs = [
        ("Sent by hospitals", part.size(part.number(summary, "bytes", "up"))),
        ("Sent to hospitals", part.size(part.number(summary, "bytes", "down"))),
        ("Training tokens", part.count(tokens)),
        ("Training speed", f"{tokens / trained:.0f} tokens/s" if tokens and trained else part.loss(None)),
        ("Peak memory", part.loss(None) if peak is None else part.size(peak * 1e6)),
    ]
    times = part.table_of(summary, "wall_s")
    order = [*(key for key in _PHASES if key in times), *(key for key in times if key not in _PHASES)]
    pairs += [(_PHASES.get(key, key.replace("_", " ")), part.seconds(part.number(times, key))) for key in order]
    measured = any(part.look(summary, key) for key in ("bytes", "wall_s", "train_tokens", "peak_rss_mb"))
    return part.facts(pairs) if measured else ""


def repeat(
    summary: Json, config: str | None, digests: Mapping[str, str] | None = None, records_sha256: str | None = None
) -> str:
    """Command, seed, digests, versions and the resolved configuration."""
    command = summary.get("command")
    body = f'<pre class="command">{part.esc(_command(command))}</pre>' if command else part.MISSING
    body += (
        "<p>Or <code>fedmed run --config config.yaml</code>, with the file of this run's folder. On the same versions, "
        "machine and thread count the adapter is the same; to the bit with <code>training.engine: single</code>. With "
        "privacy noise it never is.</p>"
    )
    pairs = [("Seed", part.esc(summary["seed"]))] if summary.get("seed") is not None else []
    pairs += [(key, _flat(value)) for key, value in part.table_of(summary, "environment").items()]
    body += part.facts(pairs) if pairs else ""
    if summary.get("adapter_sha256"):
        body += f'<p class="note">Adapter SHA-256</p><pre class="command">{part.esc(summary["adapter_sha256"])}</pre>'
    rows = [(name, digest) for name, digest in (digests or {}).items()]
    rows += [("all records, in order", records_sha256)] if records_sha256 else []
    if rows:
        listed = "".join(f"<li>{part.esc(name)}<br><code>{part.esc(digest)}</code></li>" for name, digest in rows)
        body += f'<details><summary>Digests (SHA-256)</summary><ul class="plain digests">{listed}</ul></details>'
    if config:
        shown = f'<pre tabindex="0">{part.esc(config)}</pre>'
        body += f"<details><summary>All settings (config.yaml)</summary>{shown}</details>"
    return body


def _command(command: Any) -> str:
    return " ".join(str(word) for word in command) if isinstance(command, list) else str(command)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{part.esc(key)} {part.esc(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return part.esc(", ".join(str(inner) for inner in value))
    return '<span class="missing">unknown</span>' if value is None else part.esc(value)
