"""The analysis of a trial as data: its test, several comparisons, interim looks, and outcomes of stated probability."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pkpd.adaptation import DropLosers, Reestimate, check_adaptation
from pkpd.errors import InputError, nearest
from pkpd.estimands import Estimand
from pkpd.strata import StrataOrSame
from pkpd.tomlfile import shown
from pkpd.validated import MAX_DAY, List, Table, Text

Probability = Annotated[float, Field(ge=0, le=1)]
Covariate = Literal[
    "log_baseline", "age_y", "female", "splenectomy", "corticosteroid", "east_asian", "hepatic_impairment",
]  # fmt: skip
WITH_PARAMETER = {"power-family": "rho, above 0", "hwang-shih-decani": "gamma"}
# What each test is of: kinds of endpoints as in ``pkpd.outcomes``.
TESTS = {
    "cochran-mantel-haenszel": "binary", "fisher": "binary", "risk-difference": "binary", "bayesian": "binary",
    "logistic": "binary", "log-rank": "time", "cox": "time", "ancova": "value", "mmrm": "repeated",
}  # fmt: skip
REGRESSIONS = ("logistic", "cox", "ancova", "mmrm")
ROUNDING = 1e-9  # of weights that should add to 1


class Outcome(Table):
    """Responses of stated probability in place of simulated patients, by name of arm.

    response_probability: of the analysis' endpoint. response_profile: of a response at each visit of the trial.
    """

    response_probability: dict[str, Probability] = Field(default_factory=dict)
    response_profile: dict[str, List[Probability]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> Outcome:
        if bool(self.response_probability) == bool(self.response_profile):
            raise InputError("one of response_probability and response_profile is needed, with a value for each arm")
        return self


class Prior(Table):
    """Beta(a, b) prior of every arm's response probability."""

    a: float = Field(default=1.0, gt=0, le=10_000)
    b: float = Field(default=1.0, gt=0, le=10_000)


class Graph(Table):
    """Graphical procedure: each active arm's share of alpha, and which shares of it pass on once it is rejected."""

    weights: dict[str, Probability]
    transitions: dict[str, dict[str, Probability]] = Field(default_factory=dict)


class Analysis(Table):
    """The test of each arm against the control.

    until_d: last visit day that the endpoint may use; without it that of the landmark. strata: the test is stratified
    by them (logistic, ancova, mmrm: an intercept each); "as randomised": those of ``[randomisation]``. covariates: of a
    logistic or Cox regression, ancova or mmrm; the latter two always have log_baseline. estimand: see
    ``pkpd.estimands``. logistic: likelihood-ratio test. cox: Wald, ties after Efron. mmrm: the contrast at the last
    visit, unstructured covariance, REML.
    margin: the difference of response probabilities that has to be exceeded: negative for non-inferiority.
    threshold: the posterior probability of that above which a Bayesian analysis decides for the arm.
    interval: of the risk difference, with two-sided ``confidence``.
    """

    endpoint: Text = "response"
    test: Literal[
        "cochran-mantel-haenszel", "fisher", "risk-difference", "bayesian", "logistic", "log-rank", "cox", "ancova",
        "mmrm",
    ]  # fmt: skip
    control: Text
    until_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
    strata: StrataOrSame | None = None
    covariates: List[Covariate] = ()
    estimand: Estimand = Estimand()
    sided: Literal[1, 2] = 2
    alpha: float = Field(default=0.05, gt=0, lt=1)
    margin: float = Field(default=0.0, gt=-1, lt=1)
    prior: Prior = Prior()
    threshold: float | None = Field(default=None, gt=0, lt=1)
    interval: Literal["newcombe", "miettinen-nurminen"] = "newcombe"
    confidence: float = Field(default=0.95, gt=0, lt=1)
    multiplicity: Literal["none", "bonferroni", "holm", "hochberg", "fixed-sequence", "graphical"] = "none"
    graph: Graph | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Analysis:
        given = self.model_fields_set
        self._check_patients()
        if self.test == "bayesian":
            for key in ("alpha", "sided", "graph"):
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
        if self.margin and self.test not in ("risk-difference", "ancova", "mmrm"):
            raise InputError(
                f"margin = {self.margin:g}: {self.test} tests for no difference; "
                "legal: test = 'risk-difference', 'bayesian', 'ancova' or 'mmrm'"
            )
        if self.margin and self.sided == 2:
            raise InputError(f"margin = {self.margin:g}: a test at a margin has one side; legal: sided = 1")
        if bool(self.graph) != (self.multiplicity == "graphical"):
            lacks = "[analysis.graph] is missing" if self.graph is None else "graph needs multiplicity = 'graphical'"
            raise InputError(f"multiplicity = {self.multiplicity!r}: {lacks}")
        return self

    def _check_patients(self) -> None:
        """What only some tests can do."""
        if self.strata and self.test in ("fisher", "bayesian"):
            raise InputError(f"strata: test = {self.test!r} has none; legal: 'cochran-mantel-haenszel' and others")
        if self.covariates and self.test not in REGRESSIONS:
            legal = ", ".join(map(repr, REGRESSIONS))
            raise InputError(f"covariates: test = {self.test!r} has none; legal: test = {legal}")
        if len(set(self.covariates)) < len(self.covariates):
            raise InputError(f"covariates = {shown(list(self.covariates))}: one is named twice; legal: each once")
        if "interval" in self.model_fields_set and self.by_patient:
            raise InputError(
                f"interval = {self.interval!r} is of a risk difference without strata or imputation; here the interval "
                "is that of the test; legal: without interval"
            )
        if self.estimand.missing == "multiple-imputation" and self.test not in (
            "risk-difference", "cochran-mantel-haenszel", "logistic", "ancova",
        ):  # fmt: skip
            raise InputError(
                f"estimand.missing = 'multiple-imputation' with test = {self.test!r} is not available; "
                "legal: 'risk-difference', 'cochran-mantel-haenszel', 'logistic' or 'ancova'"
            )

    @property
    def by_patient(self) -> bool:
        """Whether the test needs the outcome of each patient, not only the numbers of responders."""
        plain = ("cochran-mantel-haenszel", "fisher", "risk-difference", "bayesian")
        return self.test not in plain or bool(self.strata) or self.estimand.missing == "multiple-imputation"


class Interims(Table):
    """Looks at shares of the patients of every arm, the last at 1, with a boundary and perhaps non-binding futility.

    spending_parameter: rho of the power family, gamma of Hwang, Shih and DeCani. An arm is futile at a look whose
    conditional power (at the effect seen) or predictive power (flat prior) of the last look is below futility_below.
    """

    looks: List[float]
    boundary: Literal[
        "pocock", "obrien-fleming", "lan-demets-obrien-fleming", "lan-demets-pocock", "power-family",
        "hwang-shih-decani",
    ]  # fmt: skip
    spending_parameter: float | None = Field(default=None, ge=-40, le=40)
    futility: Literal["none", "conditional-power", "predictive-power"] = "none"
    futility_below: float | None = Field(default=None, gt=0, lt=1)
    drop_losers: DropLosers | None = None
    reestimate: Reestimate | None = None

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[float, ...]) -> tuple[float, ...]:
        if not 2 <= len(looks) <= 50:
            raise ValueError("2 to 50 shares of the patients, the last of them 1")
        for first, second in itertools.pairwise((0.0, *looks)):
            if second <= first:
                raise ValueError(f"shares that increase from above 0, but {second:g} follows {first:g}")
        if looks[-1] != 1:
            raise ValueError(f"shares of the patients, the last of them 1, not {looks[-1]:g}")
        return looks

    @model_validator(mode="after")
    def _fits_together(self) -> Interims:
        needs = WITH_PARAMETER.get(self.boundary)
        if needs and self.spending_parameter is None:
            raise InputError(f"spending_parameter is missing: {self.boundary} needs {needs}")
        if not needs and self.spending_parameter is not None:
            raise InputError(
                f"spending_parameter = {self.spending_parameter:g}: {self.boundary} has none; "
                f"legal: boundary = {' or '.join(map(repr, WITH_PARAMETER))}"
            )
        if self.boundary == "power-family" and self.spending_parameter is not None and self.spending_parameter <= 0:
            raise InputError(f"spending_parameter = {self.spending_parameter:g}: rho of the power family is above 0")
        if (self.futility == "none") != (self.futility_below is None):
            raise InputError("futility and futility_below go together: which power, and the limit below it")
        return self


def patients_at(looks: Sequence[float], n: int) -> tuple[int, ...]:
    """Patients of an arm of n at each look: the nearest whole number."""
    return tuple(math.floor(share * n + 0.5) for share in looks)


def check_outcome(outcome: Outcome, names: Sequence[str], n_visits: int) -> None:
    """InputError where the stated probabilities are not those of the arms and visits."""
    key = "response_probability" if outcome.response_probability else "response_profile"
    given: Mapping[str, object] = getattr(outcome, key)
    for name in given:
        if name not in names:
            raise InputError(f"outcome.{key}: {shown(name)} is not the name of an arm{nearest(name, names)}")
    for name in names:
        if name not in given:
            raise InputError(f"outcome.{key}: nothing is said of arm {shown(name)}")
    for name, profile in outcome.response_profile.items():
        if len(profile) != n_visits:
            raise InputError(
                f"outcome.response_profile.{name} has {len(profile)} probabilities for {n_visits} visits; "
                "legal: one for each of trial.visits_d"
            )


def check_graph(graph: Graph, active: Sequence[str]) -> None:
    """InputError where weights or transitions are not those of the active arms, or give out more than there is."""
    rows = {"weights": graph.weights, **{f"transitions.{arm}": row for arm, row in graph.transitions.items()}}
    for name in (*graph.transitions, *itertools.chain.from_iterable(rows.values())):
        if name not in active:
            raise InputError(f"analysis.graph: {shown(name)} is no arm with a comparison{nearest(name, active)}")
    for place, row in rows.items():
        if sum(row.values()) > 1 + ROUNDING:
            raise InputError(f"analysis.graph.{place} add to {sum(row.values()):g}; legal: at most 1")
    for name, row in graph.transitions.items():
        if row.get(name):
            raise InputError(f"analysis.graph.transitions.{name}: a share for itself; legal: for other arms")


def check_interims(interims: Interims, analysis: Analysis | None, sizes: Mapping[str, int]) -> None:
    """InputError where looks do not go with the analysis or with the sizes of the arms."""
    if analysis is None:
        raise InputError("interims: [analysis] is missing; a look needs a test")
    if analysis.test == "bayesian":
        raise InputError("interims: boundaries are for test statistics; legal: another test than 'bayesian'")
    if not 1e-6 <= analysis.alpha < 0.5:
        raise InputError(f"analysis.alpha = {analysis.alpha:g}: with [interims], legal: from 1e-6 to below 0.5")
    if len(sizes) > 2 and analysis.multiplicity not in ("none", "bonferroni"):
        raise InputError(
            f"interims: multiplicity = {analysis.multiplicity!r} with several looks is not available; "
            "legal: 'none' or 'bonferroni'"
        )
    for name, n in sizes.items():
        for first, second in itertools.pairwise((0, *patients_at(interims.looks, n))):
            if second <= first:
                raise InputError(f"interims.looks: arm {shown(name)} of {n} patients has no new patient at a look")
    check_adaptation(interims, analysis, sizes)
