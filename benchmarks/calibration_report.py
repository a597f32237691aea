"""What the outcomes of a calibration say: p-values, envelopes, verdict, record and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference import calibration

DRAWS = 99
LIMIT, WRONG_LIMIT = 0.01, 0.001  # of the right fit's smallest Holm-adjusted p; of a wrong one's stated quantity
LEVEL = 0.99
MOST_FAILURES = 0.02
SECONDS = 20.0  # that a fit may take
COLUMNS = 7


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of all outcomes of one way to fit: failures, times, ranks, p-values, envelope."""
    good = [o for o in outcomes if o["status"] == "fitted"]
    bad = [{k: o[k] for k in ("data_set", "status", "message", "counts")} for o in outcomes if o["status"] != "fitted"]
    found: dict[str, Any] = {"fits": len(outcomes), "without_ranks": bad}
    for name in ("seconds", "processor_seconds"):
        if outcomes:
            taken = [o[name] for o in outcomes]
            found[name] = {"median": float(np.median(taken)), "largest": max(taken)}
    found["longer_than_20_s"] = sum(o["seconds"] > SECONDS for o in outcomes)
    if not good:
        return found | {"p": {}, "holm": {}, "outside": [], "ranks": {}}
    for name in (
        "rhat_max",
        "ess_bulk_min",
        "divergences",
        "covariance_share",
        "surface_error_rms",
        "surface_chi_square",
    ):
        values = [o["figures"][name] for o in good if name in o["figures"]]
        if values:
            found[name] = dict(zip(("smallest", "median", "largest"), np.quantile(values, [0, 0.5, 1]), strict=True))
    ranks = {name: np.array([o["ranks"][name] for o in good]) for name in good[0]["ranks"]}
    p = {name: calibration.uniformity(r, DRAWS) for name, r in ranks.items()}
    band = calibration.envelope(len(good), DRAWS, LEVEL)
    found |= {"p": p, "holm": calibration.holm(p)}
    found["outside"] = [name for name, r in ranks.items() if not calibration.inside(r, band)]
    return found | {"ranks": {name: r.tolist() for name, r in ranks.items()}}


def right_reasons(found: Mapping[str, Any]) -> list[str]:
    """Why a right fit is not calibrated; nothing where it is."""
    reasons = []
    if not found["p"]:
        return ["nothing was fitted"]
    worst = min(found["holm"], key=found["holm"].get)
    if found["holm"][worst] <= LIMIT:
        reasons.append(f"{worst}: Holm-adjusted p {found['holm'][worst]:.2g}, not above {LIMIT}")
    if found["outside"]:
        reasons.append(f"outside the {LEVEL:.0%} envelope: {', '.join(found['outside'])}")
    share = len(found["without_ranks"]) / found["fits"]
    if share > MOST_FAILURES:
        reasons.append(f"{share:.1%} of the fits failed or were refused, above {MOST_FAILURES:.0%}")
    return reasons


def wrong_reasons(found: Mapping[str, Any], quantity: str) -> list[str]:
    """Why a wrong fit was not told; nothing where it was."""
    p = found["p"].get(quantity)
    if p is None:
        return [f"no ranks of {quantity}"]
    return [] if p < WRONG_LIMIT else [f"{quantity}: p {p:.2g}, not below {WRONG_LIMIT}"]


def shown(p: float) -> str:
    """A p-value as text; 1 less a probability has no digits below 1e-12."""
    return "below 1e-12" if p < 1e-12 else f"{p:.2g}"


def lines(name: str, found: Mapping[str, Any], quantity: str, reasons: Sequence[str]) -> list[str]:
    """What is printed of one way to fit."""
    text = [f"{name}: {found['fits']} fits, {len(found['without_ranks'])} failed or refused"]
    if found["p"]:
        seconds, processor = found["seconds"], found["processor_seconds"]
        text[0] += f"; {seconds['median']:.1f} s each (longest {seconds['largest']:.1f} s)"
        text[0] += f", of processor time {processor['median']:.1f} s (largest {processor['largest']:.1f} s)"
        by_p = sorted(found["p"], key=found["p"].get)
        text += [f"  {q}: p {shown(found['p'][q])}, Holm {shown(found['holm'][q])}" for q in by_p[:3] if q != quantity]
        if "surface_error_rms" in found:
            rms, chi = found["surface_error_rms"], found["surface_chi_square"]
            text.append(
                f"  error of the surface {rms['median']:.2f} (largest {rms['largest']:.2f}) sampling sds;"
                f" its square over what the surface says {chi['median']:.1f} (largest {chi['largest']:.1f})"
            )
        if quantity:
            text.append(f"  stated beforehand, {quantity}: p {shown(found['p'].get(quantity, np.nan))}")
    text += [f"  data set {o['data_set']} {o['status']}: {o['message']}" for o in found["without_ranks"]]
    return [*text, "  as it should be" if not reasons else f"  NOT as it should be: {'; '.join(reasons)}"]


def picture(path: Path, found: Mapping[str, Mapping[str, Any]], stated: Mapping[str, str]) -> None:
    """ECDF less the uniform one of every quantity of the right fit, and of what is stated of the others, with bands."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [("right", q) for q in found["right"]["ranks"]]
    panels += [(name, stated.get(name) or "log likelihood") for name in found if name != "right"]
    panels = [(name, q) for name, q in panels if q in found[name]["ranks"]]
    rows = -(-len(panels) // COLUMNS)
    fig, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(2.2 * COLUMNS, 1.6 * rows + 0.6), sharex=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    at = np.arange(1, DRAWS + 1) / (DRAWS + 1)
    for axis, (name, quantity) in zip(axes.flat, panels, strict=False):
        ranks = np.array(found[name]["ranks"][quantity])
        band = calibration.envelope(len(ranks), DRAWS, LEVEL)
        colour = "#1f5a99" if not stated.get(name) else "#b3402e"
        axis.fill_between(at, band.lower / len(ranks) - at, band.upper / len(ranks) - at, color="0.88", step="mid")
        axis.plot(at, calibration.below(ranks, DRAWS) / len(ranks) - at, color=colour, lw=1.2, drawstyle="steps-mid")
        axis.axhline(0, color="0.6", lw=0.6)
        title = quantity.replace("_iiv_log_sd", ", iiv sd")
        axis.set_title(title if name == "right" else f"{name}:\n{quantity}", fontsize=5.8)
        axis.tick_params(labelsize=6)
        axis.text(
            0.97, 0.04, f"p {shown(found[name]['p'][quantity])}", transform=axis.transAxes, ha="right", fontsize=6.5
        )
    fig.supxlabel("rank of the truth / 100", fontsize=8)
    fig.supylabel("ECDF less uniform", fontsize=8)
    n = len(next(iter(found["right"]["ranks"].values())))
    fig.suptitle(
        f"Ranks of the truth in {n} data sets (blue), and in fits that are wrong on purpose (red); 99% envelopes",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    pyplot.close(fig)
