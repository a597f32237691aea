"""The analysis of a trial as data: its tests, several comparisons and endpoints, and outcomes of stated probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from pkpd import outcomes
from pkpd.errors import InputError, nearest
from pkpd.estimands import EVENTS, Estimand
from pkpd.hypotheses import Graph
from pkpd.strata import StrataOrSame
from pkpd.tomlfile import shown
from pkpd.validated import MAX_DAY, List, Probability, Table, Text

Covariate = Literal[
    "log_baseline", "age_y", "female", "splenectomy", "corticosteroid", "east_asian", "hepatic_impairment",
]  # fmt: skip
# What each test is of: kinds of endpoints as in ``pkpd.outcomes``.
TESTS = {
    "cochran-mantel-haenszel": "binary", "fisher": "binary", "risk-difference": "binary", "bayesian": "binary",
    "logistic": "binary", "log-rank": "time", "cox": "time", "ancova": "value", "mmrm": "repeated",
}  # fmt: skip
REGRESSIONS = ("logistic", "cox", "ancova", "mmrm")


class Outcome(Table):
    """Responses of stated probability in place of simulated patients, by name of arm.

    response_probability: of the analysis' endpoint; secondary: of each secondary endpoint, by its name and by arm.
    correlation: of an arm's numbers of responders of the primary and of a secondary endpoint, on the normal scale.
    response_profile: of a response at each visit of the trial.
    """

    response_probability: dict[str, Probability] = Field(default_factory=dict)
    response_profile: dict[str, List[Probability]] = Field(default_factory=dict)
    secondary: dict[str, dict[str, Probability]] = Field(default_factory=dict)
    correlation: float = Field(default=0.0, ge=-1, le=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> Outcome:
        if bool(self.response_probability) == bool(self.response_profile):
            raise InputError("one of response_probability and response_profile is needed, with a value for each arm")
        for key in ("secondary", "correlation"):
            if key in self.model_fields_set and not self.response_probability:
                raise InputError(f"{key}: a profile says it of every visit; legal: with response_probability")
        return self


class Prior(Table):
    """Beta(a, b) prior of every arm's response probability."""

    a: float = Field(default=1.0, gt=0, le=10_000)
    b: float = Field(default=1.0, gt=0, le=10_000)


class Tested(Table):
    """An endpoint and its test.

    until_d, from_d: last and first visit day that the endpoint may use; without them from the first visit to that of
    the landmark. stage: the visits of that stage, in place of both. strata: the test is stratified by them (logistic,
    ancova, mmrm: an intercept each); "as randomised": those of ``[randomisation]``. covariates: of a logistic or Cox
    regression, ancova or mmrm; the latter two always have log_baseline. estimand: see ``pkpd.estimands``. logistic:
    likelihood-ratio test. cox: Wald, ties after Efron. mmrm: the contrast at the last visit, unstructured covariance,
    REML. margin: the difference of response probabilities that has to be exceeded: negative for non-inferiority.
    One-sided is for more than the control, and for fewer of ``outcomes.LESS_IS_BETTER``.
    """

    endpoint: Text = "response"
    test: Literal[
        "cochran-mantel-haenszel", "fisher", "risk-difference", "bayesian", "logistic", "log-rank", "cox", "ancova",
        "mmrm",
    ]  # fmt: skip
    from_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
    until_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
    stage: Text | None = None
    strata: StrataOrSame | None = None
    covariates: List[Covariate] = ()
    estimand: Estimand = Estimand()
    margin: float = Field(default=0.0, gt=-1, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Tested:
        """What only some tests can do."""
        if self.strata and self.test in ("fisher", "bayesian"):
            raise InputError(f"strata: test = {self.test!r} has none; legal: 'cochran-mantel-haenszel' and others")
        if self.covariates and self.test not in REGRESSIONS:
            legal = ", ".join(map(repr, REGRESSIONS))
            raise InputError(f"covariates: test = {self.test!r} has none; legal: test = {legal}")
        if len(set(self.covariates)) < len(self.covariates):
            raise InputError(f"covariates = {shown(list(self.covariates))}: one is named twice; legal: each once")
        hypothetical = [event for event in EVENTS if getattr(self.estimand, event) == "hypothetical"]
        if hypothetical and self.estimand.missing == "non-response" and self.test != "mmrm":
            raise InputError(
                f"estimand.{hypothetical[0]} = 'hypothetical' asks what had happened without it, and missing = "
                "'non-response' answers: no response; legal: missing = 'last-observation' or 'multiple-imputation', "
                "or test = 'mmrm'"
            )
        if self.estimand.missing == "multiple-imputation" and self.test not in (
            "risk-difference", "cochran-mantel-haenszel", "logistic", "ancova",
        ):  # fmt: skip
            raise InputError(
                f"estimand.missing = 'multiple-imputation' with test = {self.test!r} is not available; "
                "legal: 'risk-difference', 'cochran-mantel-haenszel', 'logistic' or 'ancova'"
            )
        if self.margin and self.test not in ("risk-difference", "bayesian", "ancova", "mmrm"):
            raise InputError(
                f"margin = {self.margin:g}: {self.test} tests for no difference; "
                "legal: test = 'risk-difference', 'bayesian', 'ancova' or 'mmrm'"
            )
        if self.margin and self.endpoint in outcomes.LESS_IS_BETTER:
            raise InputError(f"margin = {self.margin:g}: fewer is better of {self.endpoint}; legal: without a margin")
        if self.stage is not None and (self.from_d or self.until_d):
            raise InputError("stage: its visits are those of the endpoint; legal: without from_d and until_d")
        if self.from_d and self.until_d and self.from_d > self.until_d:
            raise InputError(f"from_d = {self.from_d}: after until_d = {self.until_d}; legal: up to {self.until_d}")
        return self

    @property
    def by_patient(self) -> bool:
        """Whether the test needs the outcome of each patient, not only the numbers of responders."""
        plain = ("cochran-mantel-haenszel", "fisher", "risk-difference", "bayesian")
        return self.test not in plain or bool(self.strata) or self.estimand.missing == "multiple-imputation"


class Secondary(Tested):
    """A further endpoint, which an arm may win once it has won its primary one. sided: if not said as for that."""

    name: Text | None = None
    endpoint: Text
    sided: Literal[1, 2] | None = None

    @property
    def label(self) -> str:
        """What it is called: its name, else its endpoint."""
        return self.name or self.endpoint

    @model_validator(mode="after")
    def _has_a_p_value(self) -> Secondary:
        if self.test == "bayesian":
            raise InputError("test = 'bayesian' has no p-value that a level is passed on to; legal: another test")
        return self


class Analysis(Tested):
    """The test of each arm against the control, and of secondary endpoints behind it.

    threshold: the posterior probability of a difference above the margin from which a Bayesian analysis decides for the
    arm. interval: of the risk difference, with two-sided ``confidence``. closed-dunnett, closed-simes: a closed test,
    over the stages of a trial if it has looks, see ``inference.whatif.closed``.

    gatekeeping: serial, an arm's level goes down its secondaries in their order once its primary is rejected, and to
    other arms after the last of them, if the multiplicity has it so; all-primaries, no secondary is tested before every
    arm's primary is rejected. order: of all hypotheses in a fixed sequence.
    """

    control: Text
    sided: Literal[1, 2] = 2
    alpha: float = Field(default=0.05, gt=0, lt=1)
    prior: Prior = Prior()
    threshold: float | None = Field(default=None, gt=0, lt=1)
    interval: Literal["newcombe", "miettinen-nurminen"] = "newcombe"
    confidence: float = Field(default=0.95, gt=0, lt=1)
    multiplicity: Literal[
        "none", "bonferroni", "holm", "hochberg", "fixed-sequence", "graphical", "closed-dunnett", "closed-simes"
    ] = "none"
    graph: Graph | None = None
    order: List[Text] = ()
    secondary: List[Secondary] = ()
    gatekeeping: Literal["serial", "all-primaries"] = "serial"

    @model_validator(mode="after")
    def _fits_together(self) -> Analysis:
        given = self.model_fields_set
        if "interval" in given and self.by_patient:
            raise InputError(
                f"interval = {self.interval!r} is of a risk difference without strata or imputation; here the interval "
                "is that of the test; legal: without interval"
            )
        if self.test == "bayesian":
            for key in ("alpha", "sided", "graph", "secondary"):
                if key in given:
                    raise InputError(f"{key}: a Bayesian decision has none; legal: threshold, margin, prior")
            if self.threshold is None:
                raise InputError("threshold is missing: the posterior probability above which the trial decides")
            if self.multiplicity != "none":
                raise InputError(
                    f"multiplicity = {self.multiplicity!r} adjusts p-values, and test = 'bayesian' has none; "
                    "legal: 'none', or another test"
                )
            return self
        if "alpha" not in given:
            raise InputError("alpha is missing")
        for key in ("threshold", "prior"):
            if key in given:
                raise InputError(f"{key} belongs to a Bayesian decision; legal: test = 'bayesian', or no {key}")
        if self.margin and self.sided == 2:
            raise InputError(f"margin = {self.margin:g}: a test at a margin has one side; legal: sided = 1")
        if bool(self.graph) != (self.multiplicity == "graphical"):
            lacks = "[analysis.graph] is missing" if self.graph is None else "graph needs multiplicity = 'graphical'"
            raise InputError(f"multiplicity = {self.multiplicity!r}: {lacks}")
        self._check_several()
        return self

    def _check_several(self) -> None:
        """What several hypotheses ask for."""
        given, several = self.model_fields_set, self.multiplicity
        if self.order and several != "fixed-sequence":
            raise InputError(f"order: multiplicity = {several!r} has none; legal: multiplicity = 'fixed-sequence'")
        if several.startswith("closed-") and self.sided == 2:
            raise InputError(f"multiplicity = {several!r}: a combination of stages has one side; legal: sided = 1")
        if "gatekeeping" in given and not self.secondary:
            raise InputError("gatekeeping: [[analysis.secondary]] is missing; there is nothing behind the primary")
        if not self.secondary:
            return
        if several.startswith("closed-"):
            raise InputError(
                f"secondary: multiplicity = {several!r} leaves no level of a single arm to pass on; legal: "
                "'bonferroni', or without [[analysis.secondary]]"
            )
        if several == "hochberg" and self.gatekeeping == "serial":
            raise InputError(
                "gatekeeping = 'serial': the step-up test of multiplicity = 'hochberg' leaves no level of a single arm "
                "to pass on; legal: 'holm', or gatekeeping = 'all-primaries'"
            )
        for key in ("graph", "order"):
            if getattr(self, key) and "gatekeeping" in given:
                raise InputError(f"gatekeeping = {self.gatekeeping!r}: {key} says who comes after whom; legal: one")
        labels = [self.endpoint, *(second.label for second in self.secondary)]
        for index, second in enumerate(self.secondary, start=1):
            if second.label in labels[:index]:
                raise InputError(f"secondary[{index}]: {shown(second.label)} is there before; legal: a name of its own")
            if second.margin and (second.sided or self.sided) == 2:
                raise InputError(
                    f"secondary[{index}].margin = {second.margin:g}: a test at a margin has one side; legal: sided = 1"
                )


def alone(analysis: Analysis, secondary: Secondary, landmark_d: int | None) -> Analysis:
    """The analysis with a secondary endpoint in place of its primary; ``landmark_d`` of the primary is kept."""
    of = {name: getattr(secondary, name) for name in Tested.model_fields}
    if secondary.stage is None and secondary.until_d is None and outcomes.week_of(secondary.endpoint) is None:
        of["until_d"] = landmark_d
    sided = secondary.sided or analysis.sided
    return analysis.model_copy(update={**of, "sided": sided, "secondary": (), "graph": None, "order": ()})


def check_outcome(outcome: Outcome, names: Sequence[str], n_visits: int, labels: Sequence[str]) -> None:
    """InputError where the stated probabilities are not those of the arms, visits and secondary endpoints."""
    key = "response_probability" if outcome.response_probability else "response_profile"
    tables: dict[str, Mapping[str, Any]] = {key: getattr(outcome, key)}
    if outcome.response_probability:
        _check_names("outcome.secondary", outcome.secondary, labels, "secondary endpoint")
        tables |= {f"secondary.{label}": row for label, row in outcome.secondary.items()}
    for place, stated in tables.items():
        _check_names(f"outcome.{place}", stated, names, "arm")
    for name, profile in outcome.response_profile.items():
        if len(profile) != n_visits:
            raise InputError(
                f"outcome.response_profile.{name} has {len(profile)} probabilities for {n_visits} visits; "
                "legal: one for each of trial.visits_d"
            )


def _check_names(place: str, given: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    for name in given:
        if name not in names:
            article = "an" if what[0] in "aeiou" else "a"
            raise InputError(f"{place}: {shown(name)} is not the name of {article} {what}{nearest(name, names)}")
    for name in names:
        if name not in given:
            raise InputError(f"{place}: nothing is said of {what} {shown(name)}")
