"""The gate: does a version show what it must? Whatever is missing, not finite, or of something else does not pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tasks.foundation.values import Value
from tasks.promotion.evidence import Check
from tasks.promotion.paired import improvement
from tasks.registry.record import Record, Scored
from tasks.registry.settings import Bounds, ChampionRule, GateSettings
from tasks.registry.trial import Trial

_NAMES = ("model_name", "label", "run_id", "fingerprint", "base_digest", "data_digest", "code_commit", "metric")
"""What a record must name."""
_DIGESTS = ("fingerprint", "base_digest", "data_digest")
_HEX = frozenset("0123456789abcdef")


class Champion(Value):
    """The present champion, as the registry names it now."""

    version: int
    package_digest: str


class Situation(Value):
    """What the gate holds a record against: the version's own files, and what stands in the registry now."""

    package_digest: str
    """Of the version, by its tag."""
    weights_digest: str
    """Of the weights among its files, read now."""
    champion: Champion | None
    trial: Trial


def judge(record: Record, settings: GateSettings, situation: Situation) -> tuple[Check, ...]:
    """All checks, those that passed too. Nothing is left out because something before it failed."""
    return (
        _complete(record),
        _belongs(record, situation),
        *_scores(record),
        *(_threshold(record, metric, bounds) for metric, bounds in sorted(settings.thresholds.items())),
        *_champion(record, settings.champion, situation.champion),
        *_forgetting(record, settings.max_forgetting),
        _merge(record),
        _leak(record),
        *_serving(settings, situation.trial),
        *_code(record, settings),
    )


def _complete(record: Record) -> Check:
    missing = [name for name in _NAMES if not getattr(record, name)]
    missing += [name for name in _DIGESTS if name not in missing and not _is_digest(getattr(record, name))]
    found = f"without {', '.join(missing)}" if missing else "complete"
    return Check(name="record", passed=not missing, found=found, wanted="names everything that made the version")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= _HEX


def _belongs(record: Record, situation: Situation) -> Check:
    """The scores are those of these weights, and the record that of this version."""
    same = bool(record.package_digest) and record.package_digest == situation.package_digest
    asked = bool(record.scored.weights_digest) and record.scored.weights_digest == situation.weights_digest
    if not same:
        found = f"record of package {_short(record.package_digest)}"
    elif not asked:
        found = f"scores of weights {_short(record.scored.weights_digest)}"
    else:
        found = f"package {_short(situation.package_digest)}, weights {_short(situation.weights_digest)}"
    wanted = f"package {_short(situation.package_digest)}, weights {_short(situation.weights_digest)}"
    return Check(name="same model", passed=same and asked, found=found, wanted=wanted)


def _short(digest: str) -> str:
    return digest[:12] or "unknown"


def _scores(record: Record) -> Iterator[Check]:
    """No score is anything but a number: a single one that is not says that the evaluation cannot be trusted."""
    scored = record.scored
    bad = [name for name, value in scored.metrics.items() if not math.isfinite(value)]
    bad += [name for name, rows in scored.per_row.items() if not all(map(math.isfinite, rows.values()))]
    found = f"not finite: {', '.join(sorted(set(bad)))}" if bad else f"{len(scored.metrics)} finite"
    passed = bool(scored.metrics) and not bad and bool(scored.rows_digest)
    yield Check(name="scores", passed=passed, found=found, wanted="finite, on named rows")


def _threshold(record: Record, metric: str, bounds: Bounds) -> Check:
    value = record.scored.metrics.get(metric)
    low = -math.inf if bounds.min is None else bounds.min
    high = math.inf if bounds.max is None else bounds.max
    passed = value is not None and math.isfinite(value) and low <= value <= high
    limits = {"at least": bounds.min, "at most": bounds.max}
    wanted = ", ".join(f"{words} {limit:g}" for words, limit in limits.items() if limit is not None)
    found = "not measured" if value is None else f"{value:.6g}"
    return Check(name=f"threshold {metric}", passed=passed, found=found, wanted=wanted)


def _champion(record: Record, rule: ChampionRule, production: Champion | None) -> Iterator[Check]:
    if rule.require == "nothing":
        return
    metric = rule.metric or record.metric
    name = f"champion {metric}"
    least = rule.margin if rule.require == "better" else -rule.margin
    comparison = "above" if rule.require == "better" else "at least"
    wanted = f"improvement per row {comparison} {least:g} with {rule.confidence:.0%} confidence"
    if production is None:
        yield Check(name=name, passed=True, found="there is no champion yet", wanted=wanted)
        return
    obstacle = _obstacle(record, rule, metric, production)
    if obstacle or record.champion is None:
        yield Check(name=name, passed=False, found=obstacle, wanted=wanted)
        return
    yield _compared(
        record.scored, record.champion, record, rule, Check(name=name, passed=False, found="", wanted=wanted)
    )


def _obstacle(record: Record, rule: ChampionRule, metric: str, production: Champion) -> str:
    """Why the two cannot be compared; empty where they can."""
    champion = record.champion
    if champion is None:
        return record.champion_missing or f"version {production.version} was not asked"
    if (champion.version, champion.package_digest) != (production.version, production.package_digest):
        return f"compared with version {champion.version}, the champion is version {production.version} now"
    if not champion.rows_digest or champion.rows_digest != record.scored.rows_digest:
        return f"version {champion.version} was asked other rows"
    if metric not in record.directions:
        return f"{metric} has no score per row"
    mine, theirs = record.scored.per_row.get(metric, {}), champion.per_row.get(metric, {})
    if mine.keys() != theirs.keys():
        return f"{metric} was not scored on the same rows"
    if len(mine) < rule.min_rows:
        return f"{len(mine)} rows, at least {rule.min_rows} are wanted"
    if not all(map(math.isfinite, [*mine.values(), *theirs.values()])):
        return f"{metric} is not finite on every row"
    return ""


def _compared(scored: Scored, champion: Scored, record: Record, rule: ChampionRule, check: Check) -> Check:
    metric = rule.metric or record.metric
    found = improvement(
        scored.per_row[metric],
        champion.per_row[metric],
        higher_is_better=record.directions[metric],
        confidence=rule.confidence,
    )
    passed = found.low > rule.margin if rule.require == "better" else found.low >= -rule.margin
    text = f"{found.mean:+.4g} [{found.low:+.4g}, {found.high:+.4g}] over {found.rows} rows"
    return check.model_copy(update={"passed": passed, "found": text})


def _forgetting(record: Record, limit: float | None) -> Iterator[Check]:
    if limit is None:
        return
    found = record.forgetting
    passed = found is not None and math.isfinite(found) and found <= limit
    shown = "not measured" if found is None else f"{found:+.4g} nats per token"
    yield Check(name="forgetting", passed=passed, found=shown, wanted=f"at most {limit:g} nats per token")


def _merge(record: Record) -> Check:
    """A merged model needs its proof; what was not merged has nothing to prove."""
    merge = record.merge
    if merge.outcome != "merged":
        return Check(name="merge", passed=True, found=merge.outcome.replace("_", " "), wanted="a proof where merged")
    difference, tolerance = merge.largest_difference, merge.tolerance
    known = difference is not None and tolerance is not None and math.isfinite(difference) and math.isfinite(tolerance)
    passed = known and difference is not None and tolerance is not None and 0 <= difference <= tolerance
    found = f"logits differ by {difference:.2e}" if known else "no proof"
    wanted = f"at most {tolerance:.0e}" if known else "a proof"
    return Check(name="merge", passed=passed, found=found, wanted=wanted)


def _leak(record: Record) -> Check:
    clean = record.leaked_rows == 0 or record.on_leak == "drop"
    found = f"{record.leaked_rows} evaluation rows in the training data"
    if record.leaked_rows and record.on_leak == "drop":
        found += ", taken out of it"
    counted = record.eval_rows > 0 and record.leaked_rows >= 0
    return Check(name="leak", passed=clean and counted, found=found, wanted="none is trained on")


def _serving(settings: GateSettings, trial: Trial) -> Iterator[Check]:
    answered = trial.same_answer is not False or (settings.answer == "any" and bool(trial.answer.strip()))
    said = {True: "as the evaluation saw", None: "answered; the evaluation asked for none"}
    found = said.get(trial.same_answer, f"another text: {trial.answer[:60]!r}")
    wanted = "as the evaluation saw" if settings.answer == "same" else "some text"
    yield Check(name="answer", passed=answered, found=found, wanted=wanted)
    if (seconds := settings.max_answer_seconds) is not None:
        passed = math.isfinite(trial.answer_seconds) and 0 < trial.answer_seconds <= seconds
        shown = f"{trial.answer_seconds:.3g} s on {trial.device}"
        yield Check(name="answer time", passed=passed, found=shown, wanted=f"at most {seconds:g} s")
    if (limit := settings.max_memory_bytes) is not None:
        passed = 0 < trial.peak_memory_bytes <= limit
        shown = f"{trial.peak_memory_bytes / 2**20:.0f} MiB on {trial.device}"
        yield Check(name="memory", passed=passed, found=shown, wanted=f"at most {limit / 2**20:.0f} MiB")


def _code(record: Record, settings: GateSettings) -> Iterator[Check]:
    if settings.committed_code:
        known = len(record.code_commit) == 40 and set(record.code_commit) <= _HEX
        yield Check(name="code", passed=known, found=record.code_commit or "unknown", wanted="a commit, unchanged")
