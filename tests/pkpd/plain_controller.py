"""A slow controller of one patient in plain Python, from the words of the protocol and of the design, section 2.4.

It shares no code with ``pkpd``. It is told what chance alone decides: whether a visit was missed, the observed counts,
at which visit the patient dropped out or was rescued. It says the rest: the dose before each visit, interruption, stop,
stage, relapse, why the patient left, and the endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Patient:
    ladder: list[float]
    level: int
    drug: str = ""
    rule: dict = field(default_factory=dict)
    on: bool = True
    interrupted: bool = False
    stopped: bool = False
    changed_on: int = 0
    top_since: int | None = None
    stage: int = 0
    relapsed: bool = False
    rescued: bool = False
    left: str = ""
    last_count: float = 0.0
    visits: list[dict] = field(default_factory=list)

    def start(self, ladder: list[float], dose: float, day: int) -> None:
        self.ladder, self.level = ladder, ladder.index(dose)
        self.on, self.interrupted, self.stopped = True, False, False
        self.changed_on = day
        self.top_since = day if self.at_top() else None

    def at_top(self) -> bool:
        return self.level == len(self.ladder) - 1 and not self.interrupted and not self.stopped

    def dose(self) -> float:
        return 0.0 if not self.on or self.interrupted or self.stopped else self.ladder[self.level]


def usual(p: Patient, rule: dict, count: float, day: int) -> str | None:
    """Action of the usual rule, in its printed order. Failure stops, or, where the rule says so, switches."""
    low = rule["up_below"]
    if p.at_top() and count >= low:
        p.top_since = day
    if p.at_top() and count < low and day - p.top_since >= rule["stop_after_d"]:
        return rule.get("at_failure", "stop")
    if not p.interrupted and count > rule["hold_above"]:
        return "interrupt"
    if p.interrupted and count < rule["resume_below"]:
        return "resume_lower"
    if not p.interrupted and count > rule["down_above"]:
        return "down"
    waited = day - p.changed_on >= rule["up_min_days_since_change"]
    if not p.interrupted and count < low and day % rule["up_every_d"] == 0 and waited:
        return "up"
    return None


def taper(p: Patient, rule: dict, count: float, day: int) -> str | None:
    """Action of a table with the one row: one level down after some days, from the lowest stop."""
    if p.at_top():
        p.top_since = day  # no row asks for a spell, so none is kept
    (row,) = rule["bands"]
    if not p.interrupted and count > row["above"] and day - p.changed_on >= row["min_days_since_change"]:
        return "down_or_stop"
    return None


def act(p: Patient, action: str | None, day: int) -> None:
    before = (p.level, p.interrupted, p.stopped)
    was_top = p.at_top()
    if action == "stop" or (action == "down_or_stop" and p.level == 0):
        p.stopped, p.interrupted = True, False
    elif action == "interrupt":
        p.interrupted = True
    elif action in ("resume_lower", "down", "down_or_stop"):
        p.level = max(p.level - 1, 0)
        p.interrupted = p.interrupted and action != "resume_lower"
    elif action == "up":
        p.level = min(p.level + 1, len(p.ladder) - 1)
    if (p.level, p.interrupted, p.stopped) != before:
        p.changed_on = day
    if not p.at_top():
        p.top_since = None
    elif not was_top:
        p.top_since = day


def course(design: dict, arm: dict, baseline: float, seen: dict) -> list[dict]:
    """What is recorded of each visit. ``seen``: lists by visit of missed, count, drops_out and rescue."""
    rules = design["titration"]
    stages = design["stages"]
    first = rules[arm["titration"]]
    patient = Patient(first["levels_mg"], 0, drug=arm["drug"], rule=first, last_count=baseline)
    arms_drug = arm["drug"]
    patient.start(first["levels_mg"], arm.get("start_dose_mg", first["levels_mg"][0]), 0)
    nominal = design["visits_d"]
    for v in range(len(nominal)):
        day, stage = nominal[v], stages[patient.stage]  # rules count in days of the calendar
        inside = not patient.left
        row = {
            "stage": patient.stage,
            "drug": patient.drug,
            "dose_mg": 0.0 if patient.drug == "placebo" or not inside else patient.dose(),
            "interrupted": patient.interrupted,
            "stopped": patient.stopped,
        }
        count = None
        if inside and seen["drops_out"][v]:
            patient.left = "dropped out"
        if not patient.left and not seen["missed"][v]:
            count = patient.last_count = seen["count"][v]
            patient.rescued |= seen["rescue"][v]
        row["observed"] = count is not None
        dropped = bool(patient.left)

        limit = stage.get("relapse_below_1e9_per_l")
        if count is not None and not patient.on and limit and not patient.relapsed and count < limit:
            patient.relapsed = True
            if stage["at_relapse"] == "restart":
                patient.on, patient.stopped, patient.interrupted, patient.changed_on = True, False, False, day
                patient.top_since = day if patient.at_top() else None
            elif stage["at_relapse"] == "leave":
                patient.left = "relapsed"

        started = False
        ends = nominal[v] == stage["until_d"] and patient.stage + 1 < len(stages)
        if ends and not patient.left:
            coming = stages[patient.stage + 1]
            own = coming.get("arms", {}).get(arm["name"], {})
            responds = patient.last_count >= 50 and not patient.rescued
            meant = {"all": True, "responders": responds, "non-responders": not responds}[coming.get("who", "all")]
            begun = own.get("drug", coming.get("drug"))
            arms_drug = begun or arms_drug
            if not meant and coming.get("others", "leave") == "leave":
                patient.left = "not eligible for a stage"
            elif not meant and coming["others"] == "stay":
                patient.stage += 1  # as before in all else
            else:
                patient.stage += 1
                name = own.get("titration", coming.get("titration"))
                dose = own.get("start_dose_mg", coming.get("start_dose_mg"))
                if begun is None and patient.drug != arms_drug:
                    switched = own.get("switched", coming.get("switched", {}))
                    name, dose = switched.get("titration"), switched.get("start_dose_mg")
                patient.drug = begun or patient.drug
                patient.rule = rules[name] if name else patient.rule
                if not meant or own.get("treatment", coming.get("treatment", "on")) == "off":
                    patient.on = False
                elif dose is not None:
                    patient.start(patient.rule["levels_mg"], dose, day)
                    started = True
        if count is not None and not patient.left and patient.on and not started and not patient.stopped:
            decide = taper if "bands" in patient.rule else usual
            action = decide(patient, patient.rule, count, day)
            if action == "switch":
                to = arm["switch_to"]
                patient.drug, patient.rule = to["drug"], rules[to["titration"]]
                patient.start(patient.rule["levels_mg"], to["start_dose_mg"], day)
            else:
                act(patient, action, day)
        row |= {"rescued": patient.rescued, "relapsed": patient.relapsed, "reason": patient.left, "dropped": dropped}
        row["count"] = count
        patient.visits.append(row)
    return patient.visits


def endpoints(visits: list[dict], days: list[int], baseline: float, landmark: int) -> dict[str, object]:
    """The reported events within the landmark's visit, and durations of response over all visits."""
    responds = [v["count"] is not None and v["count"] >= 50 and not v["rescued"] for v in visits]
    low = [
        v["count"] is not None and v["count"] >= 30 and v["count"] >= 2 * baseline and not v["rescued"] for v in visits
    ]
    within = responds[: landmark + 1]
    runs, length = [], 0
    for i, now in enumerate(responds):
        length = length + days[i] - days[i - 1] if now and i and responds[i - 1] else 0
        runs.append(length)
    total = sum(days[i] - days[i - 1] for i in range(1, len(days)) if responds[i] and responds[i - 1])
    first = [d for d, now in zip(days, responds, strict=True) if now]
    return {
        "landmark": within[-1],
        "any": any(within),
        "75%": sum(within) * 4 >= 3 * len(within),
        "30 and doubled": any(low[: landmark + 1]),
        "rescue": visits[landmark]["rescued"],
        "longest_d": max(runs),
        "total_d": total,
        "first_d": first[0] if first else None,
    }
