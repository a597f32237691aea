"""Scenarios of stated outcome and of interim looks: what is read, what is printed, what each bad input is told."""

import pytest

from pkpd.errors import InputError
from pkpd.interims import patients_at
from pkpd.scenario import load_scenario
from pkpd.scenario_text import describe

STATED = """
[[arms]]
name = "high"
n = 40
[[arms]]
name = "low"
n = 40
[[arms]]
name = "placebo"
n = 20
[trial]
n_trials = 500
mc_se_below = 0.01
[outcome.response_probability]
high = 0.5
low = 0.4
placebo = 0.1
[analysis]
endpoint = "cured"
test = "risk-difference"
control = "placebo"
alpha = 0.05
"""
BONFERRONI = "analysis.multiplicity=bonferroni"
TWO_ARMS = "arms=[{name='high', n=40}, {name='placebo', n=20}]"
TWO_STATED = "outcome.response_probability={high=0.5, placebo=0.1}"
REESTIMATE = "reestimate={at_look=2, max_factor=1.5, conditional_power=0.8}"
# settings in turn -> parts of the message
BAD = {
    ("outcome.response_probability.high=1.5",): (
        "outcome.response_probability.high = 1.5",
        "less than or equal to 1",
    ),
    ("outcome.response_probability.high=-0.1",): ("outcome.response_probability.high = -0.1", "greater than or equal"),
    ("outcome.response_probability.high='half'",): ("outcome.response_probability.high = 'half'", "a valid number"),
    ("outcome.response_probability.hihg=0.5",): ("'hihg' is not the name of an arm; did you mean 'high'?",),
    ("outcome.response_probability={high=0.5, low=0.5}",): ("nothing is said of arm 'placebo'",),
    ("outcome.response_probability={}",): ("outcome: one of response_probability and response_profile is needed",),
    ("outcome.response_profile={high=[0.5]}",): ("outcome: one of response_probability and response_profile",),
    ("outcome.response_probabilty={high=0.5}",): (
        "outcome: unknown key 'response_probabilty'; did you mean 'response_probability'?",
    ),
    ("outcome={response_profile={high=[0.5], low=[0.5], placebo=[0.5]}}",): ("trial.visits_d is missing",),
    ("trial.visits_d=[7, 14]", "outcome={response_profile={high=[0.5], low=[0.5, 0.5], placebo=[0.5, 0.5]}}"): (
        "outcome.response_profile.high has 1 probabilities for 2 visits",
        "one for each of trial.visits_d",
    ),
    (
        "trial.visits_d=[7]",
        "outcome={response_profile={high=[0.5], low=[0.5], placebo=[0.5]}}",
        "analysis.endpoint=response_any",
    ): ("analysis.endpoint = 'response_any' with", "is unknown of stated responses", "response_week_1 and so on"),
    (
        "trial.visits_d=[7]",
        "outcome={response_profile={high=[0.5], low=[0.5], placebo=[0.5]}}",
        "analysis.endpoint=response_week_2",
    ): ("needs a visit on day 14",),
    ("trial.design=crossover",): ("arms[3].n = 20",),
    ("arms.3.n=40", "trial.design=crossover"): ("outcome: its arms are independent",),
    ("trial.mc_se_below=0",): ("trial.mc_se_below = 0", "greater than 0"),
    ("trial.mc_se_belwo=0.1",): ("trial: unknown key 'mc_se_belwo'; did you mean 'mc_se_below'?",),
    ("analysis.test=chi-square",): ("analysis.test = 'chi-square'", "'bayesian'"),
    ("analysis.test=risk-diference",): ("did you mean 'risk-difference'?",),
    ("analysis.margin=-0.1",): ("analysis: margin = -0.1: a test at a margin has one side; legal: sided = 1",),
    ("analysis.margin=-1.0",): ("analysis.margin = -1.0", "greater than -1"),
    ("analysis.test=fisher", "analysis.margin=-0.1", "analysis.sided=1"): (
        "analysis: margin = -0.1: fisher tests for no difference",
        "'risk-difference', 'bayesian'",
    ),
    ("analysis.margni=0.1",): ("analysis: unknown key 'margni'; did you mean 'margin'?",),
    ("analysis.interval=wald",): ("analysis.interval = 'wald'", "'newcombe' or 'miettinen-nurminen'"),
    ("analysis.interval=newcomb",): ("did you mean 'newcombe'?",),
    ("analysis.confidence=95",): ("analysis.confidence = 95", "less than 1"),
    ("analysis.multiplicity=holmes",): ("analysis.multiplicity = 'holmes'", "did you mean 'holm'?"),
    ("analysis.multiplicity=graphical",): ("analysis: multiplicity = 'graphical': [analysis.graph] is missing",),
    ("analysis.graph={weights={high=1}}",): ("graph needs multiplicity = 'graphical'",),
    ("analysis.multiplicity=graphical", "analysis.graph={weights={placebo=1}}"): (
        "analysis.graph: 'placebo' is no arm with a comparison",
        "high, high: cured, low, low: cured",
    ),
    ("analysis.multiplicity=graphical", "analysis.graph={weights={high=0.7, low=0.7}}"): (
        "analysis.graph.weights add to 1.4; legal: at most 1",
    ),
    ("analysis.multiplicity=graphical", "analysis.graph={weights={high=1}, transitions={high={high=0.5}}}"): (
        "analysis.graph.transitions.high: a share for itself",
    ),
    ("analysis.threshold=0.9",): ("analysis: threshold belongs to a Bayesian decision",),
    ("analysis.prior={a=1}",): ("analysis: prior belongs to a Bayesian decision",),
    ("analysis.test=bayesian", "analysis.threshold=0.9"): ("analysis: alpha: a Bayesian decision has none",),
    ("analysis={test='bayesian', control='placebo'}",): ("analysis: threshold is missing",),
    ("analysis={test='bayesian', control='placebo', threshold=1.0}",): ("analysis.threshold = 1.0", "less than 1"),
    ("analysis={test='bayesian', control='placebo', threshold=0.9, multiplicity='holm'}",): (
        "analysis: multiplicity = 'holm' adjusts p-values",
    ),
    ("analysis={test='bayesian', control='placebo', threshold=0.9, prior={a=0}}",): (
        "analysis.prior.a = 0",
        "greater than 0",
    ),
    ("analysis={test='fisher', control='placebo'}",): ("analysis: alpha is missing",),
    ("interims={looks=[0.5, 1], boundary='pocok'}",): (
        "interims.boundary = 'pocok'",
        "did you mean 'pocock'?",
    ),
    ("interims={looks=[0.5, 1]}",): ("interims.boundary is missing",),
    ("interims={boundary='pocock'}",): ("interims.looks is missing",),
    ("interims={looks=[0.5, 0.9], boundary='pocock'}",): ("interims.looks = [0.5, 0.9]", "the last of them 1, not 0.9"),
    ("interims={looks=[0.5, 0.4, 1], boundary='pocock'}",): ("0.4 follows 0.5",),
    ("interims={looks=[0, 1], boundary='pocock'}",): ("increase from above 0, but 0 follows 0",),
    ("interims={looks=[1], boundary='pocock'}",): ("2 to 50 shares",),
    ("interims={looks=[0.99, 1], boundary='pocock'}",): (
        "interims.looks: arm 'high' of 40 patients has no new patient",
    ),
    ("interims={looks=[0.5, 1], boundary='power-family'}",): (
        "interims: spending_parameter is missing: power-family needs rho, above 0",
    ),
    ("interims={looks=[0.5, 1], boundary='power-family', spending_parameter=-1}",): (
        "spending_parameter = -1: rho of the power family is above 0",
    ),
    ("interims={looks=[0.5, 1], boundary='pocock', spending_parameter=1}",): (
        "spending_parameter = 1: pocock has none",
    ),
    ("interims={looks=[0.5, 1], boundary='pocock', futility='conditional-power'}",): (
        "interims: futility and futility_below go together",
    ),
    ("interims={looks=[0.5, 1], boundary='pocock', futility_below=0.1}",): ("futility and futility_below go together",),
    ("interims={looks=[0.5, 1], boundary='pocock', futlity='none'}",): (
        "interims: unknown key 'futlity'; did you mean 'futility'?",
    ),
    **{
        (f"interims={{looks=[0.3, 0.6, 1], boundary='pocock', {adaptation}}}", *more): parts
        for adaptation, more, parts in (
            ("drop_losers={at_look=3, keep=1}", [BONFERRONI], ("drop_losers.at_look = 3", "last of 3; legal: 1 to 2")),
            ("drop_losers={at_look=0, keep=1}", [BONFERRONI], ("interims.drop_losers.at_look = 0", "greater than")),
            ("drop_losers={at_look=1, keep=2}", [BONFERRONI], ("keep = 2 of 2 active arms drops none; legal: 1 to 1",)),
            ("drop_losers={at_look=1}", [BONFERRONI], ("interims.drop_losers.keep is missing",)),
            ("drop_losers={at_look=1, kep=1}", [BONFERRONI], ("unknown key 'kep'; did you mean 'keep'?",)),
            ("drop_losers={at_look=1, keep=1}", [], ("multiplicity = 'none' does not pay", "legal: 'bonferroni'")),
            ("drop_losers={at_look=1, keep=1}", [TWO_ARMS, TWO_STATED], ("one active arm, and none to drop",)),
            (REESTIMATE, [], ("interims.reestimate: 2 active arms; legal: one, and the control",)),
            (
                REESTIMATE.replace("=2,", "=1,", 1),
                [TWO_ARMS, TWO_STATED],
                ("reestimate.at_look = 1: at the look before the last only; legal: 2",),
            ),
            (REESTIMATE.replace("1.5", "1"), [], ("interims.reestimate.max_factor = 1", "greater than 1")),
            (REESTIMATE.replace("0.8", "80"), [], ("interims.reestimate.conditional_power = 80", "less than 1")),
            (REESTIMATE.replace("1.5", "1.5, step=4"), [], ("unknown key 'step'; did you mean 'steps'?",)),
        )
    },
    ("interims={looks=[0.5, 1], boundary='pocock'}", "analysis.multiplicity=holm"): (
        "interims: multiplicity = 'holm' with several looks",
        "'none', 'bonferroni', 'closed-dunnett', 'closed-simes'",
    ),
    ("interims={looks=[0.5, 1], boundary='pocock'}", "analysis.sided=1", "analysis.alpha=0.6"): (
        "analysis.alpha = 0.6: with [interims], legal: from 1e-6 to below 0.5",
    ),
    (
        "interims={looks=[0.5, 1], boundary='pocock'}",
        "analysis={test='bayesian', control='placebo', threshold=0.9}",
    ): ("interims: boundaries are for test statistics",),
}


@pytest.fixture
def stated(tmp_path):
    path = tmp_path / "stated.toml"
    path.write_text(STATED)
    return path


@pytest.mark.parametrize("settings", BAD, ids=" ".join)
def test_bad_values(settings, stated):
    with pytest.raises(InputError) as refused:
        load_scenario(stated, settings)
    message = str(refused.value)
    assert message.startswith(f"{stated}: ") and "\n" not in message
    for part in BAD[settings]:
        assert part in message


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (
            '[analysis]\nendpoint = "cured"\ntest = "risk-difference"\ncontrol = "placebo"\nalpha = 0.05\n',
            "[analysis] is missing",
        ),
        ("[outcome.response_probability]\nhigh = 0.5\nlow = 0.4\nplacebo = 0.1\n", "entry is missing"),
    ],
)
def test_missing_tables(old, message, stated):
    assert old in STATED
    stated.write_text(STATED.replace(old, ""))
    with pytest.raises(InputError) as refused:
        load_scenario(stated)
    assert message in str(refused.value)


def test_patients_still_need_what_they_take(tmp_path):
    """What a stated outcome makes optional is asked for where patients are simulated."""
    text = (
        '[trial]\nvisits_d = [7]\n[[arms]]\nname = "a"\nn = 3\ndrug = "hetrombopag"\nstart_dose_mg = 5\n'
        "[entry]\nplatelets_below_1e9_per_l = 30\n"
    )
    path = tmp_path / "patients.toml"
    for old, message in (
        ("visits_d = [7]\n", "trial.visits_d is missing"),
        ('drug = "hetrombopag"\n', "arms[1].drug is missing"),
        ("[entry]\nplatelets_below_1e9_per_l = 30\n", "entry is missing"),
    ):
        path.write_text(text.replace(old, ""))
        with pytest.raises(InputError) as refused:
            load_scenario(path)
        assert message in str(refused.value)
    path.write_text(text)
    assert load_scenario(path).outcome is None
    with pytest.raises(InputError, match=r"trial.mc_se_below: \[analysis\] is missing"):
        load_scenario(path, ["trial.mc_se_below=0.1"])


def test_a_design_with_patients_can_state_its_outcome_instead():
    """The phase III scenario with one table more: doses and titration are no longer asked."""
    probabilities = "{'start 2.5 mg' = 0.59, 'start 5 mg' = 0.64, placebo = 0.06}"
    scenario = load_scenario("phase3", [f"outcome.response_probability={probabilities}"])
    text = describe(scenario)
    assert "Arm: start 5 mg: 171 patients, response 0.64" in text and "Titration" not in text and "Entry" not in text


def test_described_in_words(stated):
    for settings, parts in (
        (
            [],
            ("Outcome: responses of stated probability", "Arm: low: 40 patients, response 0.4", "Multiplicity: none",
             "Analysis: cured against placebo, risk-difference, two-sided, alpha 0.05", "Interval: newcombe, 95%",
             "Simulated: until every power has an error below 0.01, at most 500 trials"),
        ),
        (
            ["analysis={test='bayesian', control='placebo', threshold=0.9, margin=-0.1, prior={a=0.5}}"],
            ("posterior probability above 0.9, prior Beta(0.5, 1)",
             "Aim: a difference to placebo above -0.1 (non-inferiority, margin 0.1)"),
        ),
        (
            ["analysis.multiplicity=graphical", "analysis.graph={weights={high=1}, transitions={high={low=1}}}"],
            ("Graph: high starts with 1 of alpha", "Graph: high, once rejected, gives 1 of its share to low"),
        ),
        (
            ["interims={looks=[0.5, 1], boundary='power-family', spending_parameter=3, futility='conditional-power', "
             "futility_below=0.2}"],
            ("Looks: at 0.5, 1 of the patients, power-family with parameter 3",
             "Futility: conditional-power below 0.2, non-binding"),
        ),
        (
            [BONFERRONI, "interims={looks=[0.5, 1], boundary='pocock', drop_losers={at_look=1, keep=1}}"],
            ("Drop the losers: after look 1 the best 1 of 2 active arms by response rate go on", "alpha/2"),
        ),
        (
            [TWO_ARMS, TWO_STATED, f"interims={{looks=[0.3, 0.6, 1], boundary='pocock', {REESTIMATE}}}"],
            ("Re-estimation: after look 2, if promising", "up to 1.5 times the patients in 10 steps"),
        ),
        (["analysis.multiplicity=fixed-sequence"], ("Multiplicity: fixed-sequence, in the order high, low",)),
        (
            ["trial.visits_d=[7, 14]", "analysis.endpoint=response_week_2",
             "outcome={response_profile={high=[0.5, 0.6], low=[0.5, 0.4], placebo=[0.1, 0]}}"],
            ("Arm: placebo: 20 patients, response at the visits 0.1, 0", "Visits on days: 7, 14"),
        ),
    ):  # fmt: skip
        text = describe(load_scenario(stated, settings))
        for part in parts:
            assert part in text


def test_patients_at_looks():
    assert patients_at((0.25, 0.5, 1.0), 10) == (3, 5, 10) and patients_at((1 / 3, 2 / 3, 1.0), 48) == (16, 32, 48)
