"""Designs of stated outcome that the tests ask for."""

from pkpd.scenario import Scenario, build


def design(n=(12, 12), p=(0.5, 0.2), names=None, interims=None, trial=None, **analysis) -> Scenario:
    """Arms of sizes n with response probabilities p; the second is the control."""
    names = names or ("a", "control", *(f"more {i}" for i in range(len(n) - 2)))
    data = {
        "trial": {"n_trials": 20_000, **(trial or {})},
        "arms": [{"name": name, "n": size} for name, size in zip(names, n, strict=True)],
        "outcome": {"response_probability": dict(zip(names, p, strict=True))},
        "analysis": {"endpoint": "cured", "test": "risk-difference", "control": names[1], **analysis},
    }
    if "threshold" not in analysis:
        data["analysis"].setdefault("alpha", 0.05)
    if interims:
        data["interims"] = interims
    return build(data, "design.toml")
