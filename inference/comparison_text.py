"""What a comparison says, in plain sentences with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference.comparison import (
    KHAT,
    OLD,
    Model,
    best,
    elpd_difference,
    healthy_score,
    log_bayes_factor,
)
from inference.report import numbers

# Kass and Raftery, J Am Stat Assoc 1995;90:773, on the natural log of a Bayes factor.
GRADES = ((5.0, "very strong evidence"), (3.0, "strong evidence"), (1.0, "positive evidence"))
CANNOT_TELL = "the data cannot tell"
NEARLY_ALL = 0.9  # of counts inside 95% intervals
ANSWER = ("So ", "To deny ")  # how the sentences begin that answer the question
ERRORS = 2.0  # standard errors by which a difference is shortened before it is called anything


def verdict(models: Sequence[Model]) -> list[str]:
    """The sentences of the verdict: warnings, predictive accuracy, evidence."""
    lines = [f"{m.name}: not compared: {m.reason}" for m in models if m.reason]
    lines += [
        f"{m.name}: its fit is {m.run.result.verdict} ({m.run.result.reasons[0]}), and so is what follows of it"
        for m in models
        if m.run.result.verdict != "final" and m.run.result.reasons
    ]
    return lines + accuracy(models) + evidence(models)


def accuracy(models: Sequence[Model]) -> list[str]:
    """Which model predicts arms it has not seen best, and by how much."""
    lines = [f"{m.name}: predictive accuracy: {OLD}" for m in models if not m.arms and not m.reason]
    for m in models:
        for e in m.arms if not m.reason else ():
            if not e.trusted:
                asked = f"""--set 'data.leave_out=["{e.arm}"]'"""
                lines.append(
                    f"{m.name}: arm '{e.arm}' has a k-hat of {e.khat:.2f} (not < {KHAT:g}): its elpd needs an exact "
                    f"refit; fit the config with {asked} and name that run too"
                )
    top = best(models, "elpd")
    if top is None:
        return [*lines, "Predictive accuracy: not compared: no two runs have it"]
    lines.append(f"Predictive accuracy (arms left out): best is {top.name} with elpd {top.elpd:.2f}")
    for m in models:
        if m is top or not math.isfinite(m.elpd):
            continue
        d, arms = elpd_difference(m, top), len(top.arms)
        unsure = " (an arm needs a refit)" if not all(e.trusted for x in (m, top) for e in x.arms) else ""
        error = math.hypot(0.0 if math.isnan(d.se) else d.se, d.mc_se)
        apart = -d.value > ERRORS * error
        words = f"{m.name} is worse by {-d.value:.2f} (error over {arms} arms {d.se:.2f}, Monte Carlo {d.mc_se:.2f})"
        said = "predicts worse, beyond two errors" if apart else f"the data cannot tell it from {top.name}"
        lines.append(f"{words}: {said}{unsure}; so few arms make that error itself uncertain")
    return lines


def evidence(models: Sequence[Model]) -> list[str]:
    """What the log evidence says of every model against the best."""
    lines = [
        f"{m.name}: no log evidence: "
        + (
            "the run was made before it was computed; fit it again"
            if m.run.result.correction
            else "it is computed where the correction runs (correction.draws above 0, which --quick sets to 0)"
        )
        for m in models
        if not m.reason and not math.isfinite(m.evidence[0])
    ]
    lines += [
        f"{m.name}: the log evidence has a k-hat of {m.evidence[2]:.2f} (not < {KHAT:g}): do not trust its error"
        for m in models
        if m.evidence[2] >= KHAT
    ]
    top = best(models, "evidence")
    if top is None:
        return [*lines, "Evidence: not compared: no two runs have it"]
    lines.append(f"Evidence: best is {top.name} with log evidence {top.evidence[0]:.2f} (error {top.evidence[1]:.2f})")
    for m in models:
        if m is not top and math.isfinite(m.evidence[0]):
            d = log_bayes_factor(m, top)
            found = grade(-d.value, d.se)
            said = f"{found} {m.name} from {top.name}" if found == CANNOT_TELL else f"{found} against {m.name}"
            unsure = " (a k-hat forbids to trust this)" if max(m.evidence[2], top.evidence[2]) >= KHAT else ""
            lines.append(f"{_factor(d.value, d.se)} {said}{unsure}")
    return lines


def grade(log_factor: float, se: float) -> str:
    """A log Bayes factor in words, shortened by two standard errors first."""
    least = log_factor - ERRORS * se
    return next((words for limit, words in GRADES if least >= limit), CANNOT_TELL)


def question(models: Sequence[Model]) -> list[str]:
    """Does saturable clearance explain healthy volunteers and patients with one potency; what does denying it cost?"""
    lines = []
    for m in models:
        rises = [p for p in m.healthy if p.target.statistic == "platelet_rise"]
        if rises:
            kind = "linear" if m.linear else "saturable"
            each = []
            for p in rises:
                low, _, median, _, high = p.quantiles().tolist()
                said = "inside" if p.inside() else "outside"
                each.append(f"{median:.1f}% ({low:.1f} to {high:.1f}) against {p.target.observed:g}%, {said}")
            lines.append(
                f"{m.name} ({kind} immune clearance): with the potency of its patients healthy counts rise by "
                f"{'; '.join(each)}; log predictive density of these {healthy_score(m):.2f}"
            )
    pairs = {linear: [m for m in models if m.linear == linear and not m.reason] for linear in (False, True)}
    if not all(pairs.values()):
        return lines
    top, other = (max(group, key=lambda m: _total(m)) for group in pairs.values())
    if top.healthy and other.healthy:
        lines.append(f"So saturable clearance {_explains(top)}; linear clearance {_explains(other)}")
    parts = []
    if math.isfinite(top.evidence[0]) and math.isfinite(other.evidence[0]):
        d = log_bayes_factor(other, top)
        parts.append(f"{-d.value:.2f} (error {d.se:.2f}) in log evidence of the patients' counts")
    if math.isfinite(healthy_score(top)) and math.isfinite(healthy_score(other)):
        parts.append(f"{healthy_score(top) - healthy_score(other):.2f} in log predictive density of the healthy rises")
    if parts:
        lines.append(f"To deny saturation ({other.name} instead of {top.name}) costs {' and '.join(parts)}")
    return lines


def _explains(m: Model) -> str:
    """Whether a model's healthy rises, and nearly all of its patients' counts, lie inside their 95% intervals."""
    rises = [p.inside() for p in m.healthy if p.target.statistic == "platelet_rise"]
    counts = [row["inside"] for row in numbers.predictions(m.run.result)]
    both = all(rises) and sum(counts) >= NEARLY_ALL * len(counts)
    return (
        f"{'explains' if both else 'does not explain'} healthy volunteers and patients with one potency "
        f"({sum(rises)} of {len(rises)} rises and {sum(counts)} of {len(counts)} counts inside)"
    )


def _total(m: Model) -> float:
    parts = [x for x in (m.evidence[0], healthy_score(m)) if math.isfinite(x)]
    return sum(parts) if parts else -math.inf


def _factor(difference: float, se: float) -> str:
    ratio = math.exp(min(-difference, 700))
    words = f"{ratio:,.1f}" if ratio < 1e4 else f"{ratio:.1e}"
    return f"Bayes factor {words} (log {-difference:.2f}, error {se:.2f}):"
