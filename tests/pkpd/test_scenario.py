"""Scenarios: what the shipped ones hold, what settings change, and the message that each bad input gets."""

import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pkpd import endpoints, titration
from pkpd.datatables import published
from pkpd.errors import InputError
from pkpd.published import targets
from pkpd.scenario import FOLDER, Scenario, load_scenario, shipped, with_predictions
from pkpd.scenario_text import describe
from pkpd.tomlfile import MAX_BYTES, apply_settings, read_toml

# The least form of the design.
LEAST = """
[trial]
visits_d = [7, 14, 21, 28, 35, 42, 49, 56]
n_trials = 1000
posterior_draws = 200
[[arms]]
name = "start 5 mg"
drug = "hetrombopag"
n = 171
start_dose_mg = 5.0
[[arms]]
name = "placebo"
drug = "placebo"
n = 85
[entry]
platelets_below_1e9_per_l = 30
[titration]
levels_mg = [2.5, 3.75, 5, 7.5]
up_below = 50
up_every_d = 14
up_min_days_since_change = 14
down_above = 200
hold_above = 250
resume_below = 150
stop_after_d = 28
[analysis]
endpoint = "response_week_8"
test = "cochran-mantel-haenszel"
control = "placebo"
sided = 2
alpha = 0.05
"""
NAMED = (
    re.sub(r"\[titration\]", "[titration.usual]", LEAST)
    + "\n[titration.steps]\nlevels_mg = [5, 10]\ndown_above = 100\n"
)


@pytest.fixture
def file(tmp_path):
    def write(text, name="scenario.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# What is shipped


def test_phase_3_is_the_published_trial():
    scenario = load_scenario("phase3")
    assert [(arm.name, arm.drug, arm.n, arm.start_dose_mg) for arm in scenario.arms] == [
        ("start 2.5 mg", "hetrombopag", 168, 2.5),
        ("start 5 mg", "hetrombopag", 171, 5.0),
        ("placebo", "placebo", 85, None),
    ]
    assert scenario.trial.visits_d == (7, 14, 21, 28, 35, 42, 49, 56)
    assert scenario.trial.n_trials == 1000
    assert scenario.entry.platelets_below_1e9_per_l == 30
    assert scenario.rescue.enabled and scenario.dropout.hazard_per_week == 0
    assert any("titration" in text and "not published" in text for text in scenario.trial.assumptions)
    expected = titration.compact(
        [2.5, 3.75, 5, 7.5],
        up_below=50,
        up_every_d=14,
        up_min_days_since_change=14,
        down_above=200,
        hold_above=250,
        resume_below=150,
        stop_after_d=28,
    )
    for arm, level in zip(scenario.arms, (0, 2, 0), strict=True):
        for one, other in zip(scenario.rule(arm), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert scenario.start_level(arm) == level


def test_the_alternative_differs_in_two_thresholds_only():
    usual, other = load_scenario("phase3"), load_scenario("phase3_alternative_titration")
    assert (other.titration[""].down_above, other.titration[""].hold_above) == (250, 400)
    changed = usual.titration[""].model_copy(update={"down_above": 250.0, "hold_above": 400.0})
    same_name = other.trial.model_copy(update={"name": usual.trial.name})
    assert other.model_copy(update={"trial": same_name}) == usual.model_copy(update={"titration": {"": changed}})


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios_are_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_scenario(name) == load_scenario(FOLDER / f"{name}.toml")
    assert load_scenario(name).trial.assumptions


def test_a_file_comes_before_a_shipped_name(file, tmp_path, monkeypatch):
    file(LEAST, "phase3")
    monkeypatch.chdir(tmp_path)
    assert len(load_scenario("phase3").arms) == 2


# Reading


def test_least_form(file):
    scenario = load_scenario(file(LEAST, "my trial.toml"))
    assert scenario.trial.name == "my trial"
    assert scenario.landmark == 7 and scenario.endpoint_names == endpoints.NAMES
    assert isinstance(scenario.trial.visits_d, tuple) and isinstance(scenario.titration[""].levels_mg, tuple)


def test_a_byte_order_mark_is_no_error(file):
    assert load_scenario(file(b"\xef\xbb\xbf" + LEAST.encode())) == load_scenario(file(LEAST))


def test_a_scenario_is_frozen(file):
    scenario = load_scenario(file(LEAST))
    with pytest.raises(ValidationError, match="frozen"):
        scenario.arms[0].n = 3


def test_arms_name_their_titration(file):
    settings = ["arms.1.titration=usual", "arms.2.titration=none"]
    scenario = load_scenario(file(NAMED), settings)
    assert len(scenario.rule(scenario.arms[0]).levels_mg) == 4
    assert list(scenario.rule(scenario.arms[1]).levels_mg) == [0.0]
    changed = load_scenario(file(NAMED), ["arms.1.titration=steps", "arms.2.titration=usual"])
    assert list(changed.rule(changed.arms[0]).levels_mg) == [5, 10]


def test_without_titration_the_start_dose_is_fixed(file):
    text = re.sub(r"(?s)\[titration\].*?(?=\[analysis\])", "", LEAST)
    scenario = load_scenario(file(text))
    active, placebo = (scenario.rule(arm) for arm in scenario.arms)
    assert titration.as_text(active) == "Fixed dose: 5 mg once daily." and len(active.action) == 0
    assert list(placebo.levels_mg) == [0.0]


def test_bands_say_the_same_as_the_keys(file):
    bands = """
[titration]
levels_mg = [2.5, 3.75, 5, 7.5]
bands = [
    { action = "stop", below = 50, min_days_at_top_below = 28 },
    { action = "interrupt", above = 250 },
    { action = "resume_lower", below = 150 },
    { action = "down", above = 200 },
    { action = "up", below = 50, every_d = 14, min_days_since_change = 14 },
]
"""
    text = re.sub(r"(?s)\[titration\].*?(?=\[analysis\])", bands, LEAST)
    one, other = load_scenario(file(text)), load_scenario(file(LEAST))
    for a, b in zip(one.rule(one.arms[0]), other.rule(other.arms[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bands_can_act_in_any_state(file):
    bands = '[titration]\nlevels_mg = [5]\nbands = [{ action = "stop", above = 500, state = "any" }]\n'
    scenario = load_scenario(file(re.sub(r"(?s)\[titration\].*?(?=\[analysis\])", bands, LEAST)))
    assert scenario.rule(scenario.arms[0]).while_interrupted.tolist() == [-1]


@pytest.mark.parametrize(
    ("settings", "landmark", "first"),
    [
        ([], 7, "response_week_8"),
        (["analysis.endpoint=response_any"], 7, "response_week_8"),
        (["analysis.endpoint=response_week_4"], 3, "response_week_4"),
        (["trial.visits_d=[7, 56, 70]"], 1, "response_week_8"),
        (["trial.visits_d=[7, 14]", "analysis.endpoint=response_any"], 1, "response_week_2"),
        (["trial.visits_d=[7, 15]", "analysis.endpoint=response_any"], 1, "response_day_15"),
    ],
)
def test_landmark_visit(file, settings, landmark, first):
    scenario = load_scenario(file(LEAST), settings)
    assert (scenario.landmark, scenario.endpoint_names[0]) == (landmark, first)
    assert scenario.endpoint_names[1:] == endpoints.NAMES[1:]


def test_parameters_are_names_of_the_library(file):
    scenario = load_scenario(file(LEAST), ["parameters.receptor_ec50_nM=20", "parameters.weight_log_sd=0"])
    assert scenario.parameters == {"receptor_ec50_nM": 20.0, "weight_log_sd": 0.0}


def test_analysis_may_be_absent(file):
    text = LEAST[: LEAST.index("[analysis]")]
    assert load_scenario(file(text)).analysis is None


OF_PHASE_3 = sorted(
    name
    for name in {*shipped()} - {*with_predictions(), *with_predictions("eltrombopag"), "phase3_stages"}
    if "phase3" in name
)


@pytest.mark.parametrize("name", OF_PHASE_3)
def test_described_in_words(name):
    scenario = load_scenario(name, ["parameters.dimer_hill=2", "dropout.hazard_per_week=0.01"])
    text = describe(scenario)
    for part in (
        "Arm: start 2.5 mg: 168 patients, hetrombopag, start 2.5 mg, fasted",
        "Arm: placebo: 85 patients, placebo, 0 mg",
        "Assumption: titration table",
        "Entry: platelets below 30 x 10^9/L",
        "1. after 28 days at 7.5 mg with every count below 50: stop for good",
        f"above {scenario.titration[''].hold_above:g}, while not interrupted: interrupt",
        "Rescue: on",
        "Dropout: hazard 0.01 per week",
        "Parameter: dimer_hill = 2",
        "Analysis: response_week_8 against placebo, cochran-mantel-haenszel, two-sided, alpha 0.05",
        "Simulated: 1000 trials; of a posterior, where one is given, 200 draws",
    ):
        assert part in text


# Treatment, population, crossover and published numbers

CROSSOVER = """
[trial]
design = "crossover"
visits_d = [1, 2, 7]
[[arms]]
name = "fasted"
drug = "hetrombopag"
n = 6
start_dose_mg = 7.5
treatment_d = 1
[[arms]]
name = "fed"
drug = "hetrombopag"
n = 6
start_dose_mg = 7.5
treatment_d = 1
meal = "meal_1h_after"
[entry]
disease = "healthy"
platelets_below_1e9_per_l = 400
[published]
table = "ours.csv"
study = "food"
[[predictions]]
quantity = "cmax_change"
reference = "fasted"
within_subject_log_sd = 0.3
note = "why"
[[predictions]]
quantity = "response_at_day"
statistic = "response_any"
day = 2
published_arm = "together"
[[predictions]]
quantity = "platelet_rise"
seen = "in advance"
"""
OURS = """study,arm,n,quantity,value,unit,status,source,time_d
food,fed,6,cmax_change,-50,%,unpublished,ours,
food,together,12,response_at_day,3,patients,unpublished,ours,7
food,fasted,6,platelet_rise,10,%,unpublished,ours,7
food,fed,6,platelet_rise,5,%,unpublished,ours,7
other,fed,6,platelets_median,50,1e9/L,unpublished,ours,7
"""


@pytest.fixture
def crossover(file):
    file(OURS, "ours.csv")
    return file(CROSSOVER)


def test_published_numbers_come_from_their_table_with_what_predicts_them(crossover):
    found = targets(load_scenario(crossover))
    said = [(t.arm, t.arms, t.quantity, t.observed, t.n, t.unit, t.last, t.reference, t.note, t.seen) for t in found]
    assert said == [
        ("fed", ("fed",), "cmax_change", -50, 6, "%", 2, "fasted", "why", ""),
        ("together", ("fasted", "fed"), "response_any_to_day_2", 3, 12, "patients", 1, None, "", ""),
        ("fasted", ("fasted",), "platelet_rise_day_7", 10, 6, "%", 2, None, "", "in advance"),
        ("fed", ("fed",), "platelet_rise_day_7", 5, 6, "%", 2, None, "", "in advance"),
    ]
    assert {t.source for t in found} == {"ours"} and found[0].within_subject_log_sd == 0.3


def test_new_keys_are_described(crossover):
    text = describe(load_scenario(crossover, ["arms.fed.treatment_d=2", "arms.fed.start_dose_mg=5.0"]))
    for part in (
        "Crossover: the same subjects in all arms, each period from rest",
        "Entry: healthy volunteers, platelets below 400 x 10^9/L",
        "Arm: fasted: 6 patients, hetrombopag, start 7.5 mg, fasted, one dose",
        "Arm: fed: 6 patients, hetrombopag, start 5 mg, meal_1h_after, 2 days of treatment",
        "Published: food, fed: cmax_change = -50 %, n = 6",
        "Published: food, together: response_any_to_day_2 = 3 of 12",
        "Published: food, fed: platelet_rise_day_7 = 5 %, n = 6; seen: in advance",
    ):
        assert part in text


@pytest.mark.parametrize("name", with_predictions())
def test_shipped_predictions_take_their_numbers_from_the_data_tables(name):
    scenario = load_scenario(name)
    found = targets(scenario)
    assert found and all(t.status == "published" and t.note for t in found)
    assert scenario.published.table in ("other_trials", "food")  # the default fit reads neither
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    assert not {"value", "observed", "published"} & {key for table in raw["predictions"] for key in table}


def test_shipped_predictions_are_all_that_is_held_out():
    found = {(t.study, t.arm, t.published) for name in with_predictions() for t in targets(load_scenario(name))}
    rows = [row for table in ("other_trials", "food") for row in published(table).itertuples()]
    assert found == {(row.study, row.arm, row.quantity) for row in rows}


@pytest.mark.parametrize("name", with_predictions("eltrombopag"))
def test_scenarios_of_the_comparator_take_theirs_from_the_class_data(name):
    found = targets(load_scenario(name))
    assert found and {t.status for t in found} <= {"published", "assumed"}
    rows = published("class_trials")
    for t in found:
        own = rows[(rows["study"] == t.study) & (rows["arm"] == t.arm) & (rows["quantity"] == t.published)]
        assert own["value"].tolist() == [t.observed]


BAD_CROSSOVER = {
    "arms.fed.treatment_d=3": ("arms[2].treatment_d = 3: no visit; legal: a day of trial.visits_d",),
    "arms.fed.treatment_d=0": ("arms[2].treatment_d = 0", "greater than or equal to 1"),
    "arms.fed.treatment_d=1.5": ("arms[2].treatment_d = 1.5", "a valid integer"),
    "arms.fed.treatment=1": ("arms[2]: unknown key 'treatment'; did you mean 'treatment_d'?",),
    "arms.fed.n=7": ("arms[2].n = 7", "'crossover' has the same subjects in all arms; legal: 6"),
    "trial.design=crosover": ("trial.design = 'crosover'", "did you mean 'crossover'?"),
    "trial.design=parallel": ("predictions[1].statistic = 'cmax_change' compares periods", "'crossover'"),
    "entry.disease=helthy": ("entry.disease = 'helthy'", "did you mean 'healthy'?"),
    "entry.diseases=healthy": ("entry: unknown key 'diseases'; did you mean 'disease'?",),
    "entry.platelets_below_1e9_per_l=30": ("nobody is eligible, baseline counts start at 150",),
    "analysis={endpoint='rescue', test='fisher', control='fed', alpha=0.05}": (
        "analysis: its tests compare independent arms; legal: trial.design = 'parallel'",
    ),
    "predictions=[]": ("published: [[predictions]] is missing",),
    "published.table=foods": ("published.table: unknown data table 'foods'; did you mean 'food'?",),
    "published.table=theirs.csv": ("published.table: ", "theirs.csv: no such file"),
    "published.study=foot": ("published.study = 'foot'", "did you mean 'food'?"),
    "published.arm=fed": ("published: unknown key 'arm'",),
    "predictions.1.quantity=cmax": ("predictions[1].quantity = 'cmax' is not reported", "legal names: cmax_change, "),
    "predictions.1.statstic=cmax_change": ("predictions[1]: unknown key 'statstic'; did you mean 'statistic'?",),
    "predictions.1.reference=fast": ("predictions[1].reference = 'fast' is not the name of an arm", "'fasted'"),
    "predictions.1.reference=fed": ("predictions[1].reference = 'fed': legal: one arm against another",),
    "predictions.1.within_subject_log_sd=-1": ("predictions[1].within_subject_log_sd = -1",),
    "predictions.1.arms=['fasted']": ("predictions[1].arms = 'fasted' is not reported; did you mean",),
    "predictions.1.arms=['feed']": ("predictions[1].arms: 'feed' is not the name of an arm; did you mean 'fed'?",),
    "predictions.2.published_arm=apart": ("predictions[2].published_arm = 'apart' is not reported",),
    "predictions.2.arms=['fed']": ("predictions[2].quantity = 'response_at_day': published of n = 12, but fed: n = 6",),
    "predictions.2.day=5": ("predictions[2].day = 5: no visit; legal: a day of trial.visits_d",),
    "predictions.2.statistic=cured": ("predictions[2].statistic = 'cured' is not simulated",),
    "predictions.2.statistic=respons_any": ("did you mean 'response_any'?",),
    "predictions.2.statistic=platelet_rise": ("statistic = 'platelet_rise' is in %, response_at_day in patients",),
    "predictions.3.reference=fasted": ("predictions[3].reference = 'fasted': platelet_rise is no change against",),
    "arms.fasted.drug=placebo": ("predictions[1].statistic = 'cmax_change': arm 'fasted' takes no drug",),
}


@pytest.mark.parametrize("setting", BAD_CROSSOVER)
def test_bad_values_of_the_new_keys(setting, crossover):
    with pytest.raises(InputError) as refused:
        load_scenario(crossover, [setting])
    message = str(refused.value)
    assert message.startswith(f"{crossover}: ") and "\n" not in message
    for part in BAD_CROSSOVER[setting]:
        assert part in message


def test_a_change_needs_its_reference(crossover, file):
    text = CROSSOVER.replace('reference = "fasted"\n', "")
    with pytest.raises(InputError, match="reference is missing: cmax_change is a change against another arm"):
        load_scenario(file(text))
    with pytest.raises(InputError, match=r"predictions: \[published\] is missing"):
        load_scenario(file(CROSSOVER.replace('[published]\ntable = "ours.csv"\nstudy = "food"\n', "")))


def test_a_number_reported_on_several_days_needs_one(crossover, file):
    file(OURS + "food,fed,6,platelet_rise,6,%,unpublished,ours,14\n", "ours.csv")
    with pytest.raises(InputError, match=r"day = None: platelet_rise is reported several times; legal: one of 7, 14"):
        load_scenario(crossover)
    assert targets(load_scenario(crossover, ["predictions.3.day=7"]))[-1].observed == 5


# Settings


def test_settings_change_a_copy():
    data = tomllib.loads(LEAST)
    changed = apply_settings(
        data,
        [
            "trial.n_trials=20",
            "arms.placebo.n = 7",
            'arms."start 5 mg".n=8',
            "arms.1.start_dose_mg=2.5",
            "analysis.test=fisher",
            'trial.name="a = b"',
            "rescue.enabled=false",
            "trial.visits_d=[7, 14]",
        ],
    )
    assert data == tomllib.loads(LEAST)
    assert changed["trial"] == {"visits_d": [7, 14], "n_trials": 20, "posterior_draws": 200, "name": "a = b"}
    assert [arm["n"] for arm in changed["arms"]] == [8, 7] and changed["arms"][0]["start_dose_mg"] == 2.5
    assert changed["analysis"]["test"] == "fisher" and changed["rescue"] == {"enabled": False}


def test_the_last_setting_wins(file):
    assert load_scenario(file(LEAST), ["trial.n_trials=2", "trial.n_trials=3"]).trial.n_trials == 3


# Bad input: one line that names the file, the key, the value and what is legal

# settings on the least form -> parts of the message
BAD_SETTINGS = {
    "rescue.from_d=7": ("rescue: from_d = 7: below_1e9_per_l is missing",),
    "rescue={enabled=false, below_1e9_per_l=20}": ("rescue: below_1e9_per_l: enabled = false switches rescue off",),
    "rescue.below_1e9_per_l=0": ("rescue.below_1e9_per_l = 0", "greater than 0"),
    "trial.visits_d=[14, 7]": ("trial.visits_d = [14, 7]", "7 follows 14"),
    "trial.visits_d=[7, 7]": ("trial.visits_d", "increase, but 7 follows 7"),
    "trial.visits_d=[0, 7]": ("trial.visits_d", "from 1 to 3660, but 0"),
    "trial.visits_d=[7, 4000]": ("trial.visits_d", "but 4000"),
    "trial.visits_d=[]": ("trial.visits_d = []", "at least one visit"),
    "trial.visits_d=56": ("trial.visits_d = 56", "legal: a list"),
    "trial.visits_d=[7, 'x']": ("trial.visits_d[2] = 'x'", "a valid integer"),
    "trial.visits_d=[7.5]": ("trial.visits_d[1] = 7.5", "a valid integer"),
    "trial.visits_d=[nan]": ("trial.visits_d[1] = nan", "a valid integer"),
    "trial.n_trials=0": ("trial.n_trials = 0", "greater than or equal to 1"),
    "trial.n_trials=true": ("trial.n_trials = True", "a valid integer"),
    "trial.n_trials='many'": ("trial.n_trials = 'many'", "a valid integer"),
    "trial.ntrials=5": ("trial: unknown key 'ntrials'; did you mean 'n_trials'?",),
    "trial=5": ("trial = 5", "legal: a table"),
    "trail.n_trials=5": ("unknown key 'trail'; did you mean 'trial'?",),
    "arms=[]": ("arms: at least one [[arms]]",),
    "arms=3": ("arms = 3", "legal: a list"),
    "arms=[3]": ("arms[1] = 3", "legal: a table"),
    "arms.1.n=0": ("arms[1].n = 0", "greater than or equal to 1"),
    "arms.1.n=10000001": ("arms[1].n = 10000001", "less than or equal to 10000000"),
    "arms.1.n=-4": ("arms[1].n = -4",),
    "arms.1.n=8.5": ("arms[1].n = 8.5", "a valid integer"),
    "arms.1.n=99999999999999999999999": ("arms[1].n = 99999999999999999999999",),
    "arms.2.name='start 5 mg'": ("arms[2].name = 'start 5 mg' is the name of arms[1] too",),
    "arms.2.name='Start  5 MG '": ("arms[2].name", "is the name of arms[1] too"),
    "arms.2.name=' '": ("arms[2].name = ' ' is blank",),
    "arms.2.name=''": ("arms[2].name = ''", "at least 1 character"),
    "arms.1.drug=hetrombopg": ("arms[1].drug = 'hetrombopg'", "did you mean 'hetrombopag'?"),
    "arms.1.start_dose_mg=-5.0": ("arms[1].start_dose_mg = -5.0", "greater than or equal to 0"),
    "arms.1.start_dose_mg=nan": ("arms[1].start_dose_mg = nan", "a finite number"),
    "arms.1.start_dose_mg=inf": ("arms[1].start_dose_mg = inf", "a finite number"),
    "arms.1.start_dose_mg='5'": ("arms[1].start_dose_mg = '5'", "a valid number"),
    "arms.1.start_dose_mg=4": ("arms[1] (start 5 mg): start_dose_mg = 4", "ladder of 2.5, 3.75, 5, 7.5 mg"),
    "arms.2.start_dose_mg=4": ("arms[2] (placebo): start_dose_mg = 4", "ladder"),
    "arms.1.strat_dose_mg=5": ("arms[1]: unknown key 'strat_dose_mg'; did you mean 'start_dose_mg'?",),
    "arms.1.meal=breakfast": ("arms[1].meal = 'breakfast'", "did you mean 'high_fat_breakfast'?"),
    "arms.1.titration=slow": ("arms[1] (start 5 mg): titration = 'slow' is not defined",),
    "entry.platelets_below_1e9_per_l=1": ("entry.platelets_below_1e9_per_l = 1", "nobody is eligible"),
    "entry.platelets_below_1e9_per_l=0.5": ("nobody is eligible", "legal: above 1"),
    "entry.platelets_below_1e9_per_l=-1": ("entry.platelets_below_1e9_per_l = -1", "greater than 0"),
    "entry.platelets_below_1e9_per_l=nan": ("entry.platelets_below_1e9_per_l = nan", "finite"),
    "entry.platelets_below=30": ("entry: unknown key 'platelets_below'", "platelets_below_1e9_per_l"),
    "titration.levels_mg=[5, 2.5]": ("titration: levels_mg must increase: 2.5 follows 5",),
    "titration.levels_mg=[]": ("titration: levels_mg = []",),
    "titration.levels_mg=[0, 5]": ("titration: levels_mg: 0.0 is not a dose",),
    "titration.levels_mg=['5']": ("titration.levels_mg[1] = '5'", "a valid number"),
    "titration.up_bellow=50": ("titration: unknown key 'up_bellow'; did you mean 'up_below'?",),
    "titration.up_below=260": ("titration: up_below = 260 must be below resume_below = 150", "wrong order"),
    "titration.down_above=300": ("titration: down_above = 300 must be below hold_above = 250", "wrong order"),
    "titration.resume_below=400": ("titration: resume_below = 400 must be at most hold_above = 250",),
    "titration.hold_above=nan": ("titration.hold_above = nan", "finite"),
    "titration.up_every_d=0": ("titration: up_every_d = 0", "at least 1"),
    "titration.up_every_d=-14": ("titration.up_every_d = -14",),
    "titration.stop_after_d='28'": ("titration.stop_after_d = '28'", "a valid integer"),
    "titration.bands=[{action = 'down', above = 300}]": ("bands and up_below exclude each other",),
    "titration={}": ("titration.levels_mg is missing",),
    "titration=3": ("titration = 3", "legal: a table"),
    "rescue.enabled=1": ("rescue.enabled = 1", "a valid boolean"),
    "rescue.enable=true": ("rescue: unknown key 'enable'; did you mean 'enabled'?",),
    "dropout.hazard_per_week=-0.1": ("dropout.hazard_per_week = -0.1", "greater than or equal to 0"),
    "dropout.hazard_per_week=inf": ("dropout.hazard_per_week = inf", "finite"),
    "parameters.clearence_l_per_h=7": ("parameters", "did you mean 'clearance_l_per_h'?"),
    "parameters.central_volume_l=-3": ("parameters: central_volume_l = -3", "out of range"),
    "parameters.share_survival=0.4": ("parameters", "must add to 1"),
    "parameters.clearance_l_per_h='7'": ("parameters.clearance_l_per_h = '7'", "a valid number"),
    "parameters.clearance_l_per_h=nan": ("parameters.clearance_l_per_h = nan", "finite"),
    "analysis.endpoint=response": ("analysis.endpoint = 'response' is unknown",),
    "analysis.endpoint=response_weak_8": ("analysis.endpoint", "did you mean 'response_week_8'?"),
    "analysis.endpoint=response_week_10": ("analysis.endpoint = 'response_week_10' needs a visit on day 70",),
    "analysis.test=t-test": ("analysis.test = 't-test'", "'fisher'"),
    "analysis.control=placbo": ("analysis.control = 'placbo' is not the name of an arm; did you mean 'placebo'?",),
    "analysis.sided=3": ("analysis.sided = 3", "1 or 2"),
    "analysis.alpha=0": ("analysis.alpha = 0", "greater than 0"),
    "analysis.alpha=1": ("analysis.alpha = 1", "less than 1"),
    "analysis.alpha=nan": ("analysis.alpha = nan", "finite"),
    "trial.name.x=1": ("--set 'trial.name.x=1'",),
    "arms.active.n=3": ("--set", "no row 'active' among 2"),
    "arms.3.n=3": ("--set", "no row '3' among 2"),
    "arms.0.n=3": ("--set", "no row '0' among 2"),
    "trial.n_trials": ("--set 'trial.n_trials': is not key=value",),
    "=5": ("--set '=5': is not key=value",),
    "trial..n=5": ("is not key=value",),
    ".n=5": ("is not key=value",),
    "trial.n_trials=": ("is no TOML value",),
    "trial.n_trials=[1": ("'[1' is no TOML value",),
    "trial.n_trials=5\nother=6": ("holds more than one value",),
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_bad_values(setting, file):
    text = LEAST
    if setting.startswith("trial.name.x"):
        text = LEAST.replace("[trial]", '[trial]\nname = "a"')
    with pytest.raises(InputError) as refused:
        load_scenario(file(text), [setting])
    message = str(refused.value)
    assert "\n" not in message and "Traceback" not in message
    for part in BAD_SETTINGS[setting]:
        assert part in message
    if "--set" not in message:
        assert "scenario.toml: " in message


def without(*lines):
    text = LEAST
    for line in lines:
        assert line in text
        text = text.replace(line, "", 1)
    return text


THRESHOLDS_TOO_LOW = LEAST.replace("down_above = 200", "down_above = 45").replace("up_below = 50", "up_below = 20")
BAD_TEXTS = {
    "malformed": ("[trial\n", "malformed TOML: Expected"),
    "key twice": ("[trial]\na = 1\na = 2\n", "malformed TOML"),
    "nested too deep": ("a = " + "[" * 5000 + "]" * 5000, "malformed TOML"),
    "number too long": ("a = " + "9" * 5000, "malformed TOML"),
    "empty": ("", "is empty"),
    "comments only": ("# nothing\n\n", "is empty"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "is not text"),
    "null characters": (b"[trial]\n\x00", "is not text"),
    "Latin-1": ('[trial]\nname = "caf\xe9"\n'.encode("latin-1"), "is not text"),
    "no arms": (LEAST[: LEAST.index("[[arms]]")], "arms is missing"),
    "no trial": (LEAST[LEAST.index("[[arms]]") :], "trial is missing"),
    "no entry": (without("[entry]\nplatelets_below_1e9_per_l = 30\n"), "entry is missing"),
    "no visits": (without("visits_d = [7, 14, 21, 28, 35, 42, 49, 56]\n"), "trial.visits_d is missing"),
    "no start dose": (without("start_dose_mg = 5.0\n"), "arms[1] (start 5 mg): start_dose_mg is missing"),
    "no fixed dose": (
        re.sub(r"(?s)\[titration\].*?(?=\[analysis\])", "", without("start_dose_mg = 5.0\n")),
        "arms[1] (start 5 mg): start_dose_mg is missing",
    ),
    "fixed dose of a drug at 0": (
        re.sub(r"(?s)\[titration\].*?(?=\[analysis\])", "", LEAST.replace("= 5.0", "= 0.0")),
        "give a dose above 0 mg",
    ),
    "half of an action": (without("resume_below = 150\n"), "titration: resume_below is missing"),
    "one arm and a test": (
        LEAST.replace('[[arms]]\nname = "placebo"\ndrug = "placebo"\nn = 85\n', ""),
        "a test needs at least two arms",
    ),
    "which of two rules": (NAMED, "arms[1] (start 5 mg): titration is missing; legal: 'usual', 'steps', 'none'"),
    "a rule called none": (NAMED.replace("titration.steps", "titration.none"), "another name than 'none'"),
    "bad named rule": (NAMED.replace("[5, 10]", "[10, 5]"), "titration.steps: levels_mg must increase"),
    "rule and names mixed": (LEAST + "\n[titration.slow]\nlevels_mg = [5]\n", "titration: unknown key 'slow'"),
    "no responders possible": (THRESHOLDS_TOO_LOW, "titration: no responders possible: down above 45"),
    "unknown action": (
        LEAST.replace("up_below = 50", 'bands = [{ action = "lower" }]\nup_below = 50'),
        "titration.bands[1].action = 'lower'",
    ),
    "which drug": (
        LEAST.replace('"placebo"\nn', '"eltrombopag"\nstart_dose_mg = 5\nn')
        + "\n[parameters]\nreceptor_ec50_nM = 20\n",
        "parameters.receptor_ec50_nM: which drug is meant, eltrombopag or hetrombopag?",
    ),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_files(name, file):
    text, part = BAD_TEXTS[name]
    path = file(text)
    with pytest.raises(InputError) as refused:
        load_scenario(path)
    assert str(refused.value).startswith(f"{path}") and part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_several_errors_are_one_message_that_counts_them(file):
    with pytest.raises(InputError, match=r"arms\[1\]\.n = 0: .* \(and 2 more\)$"):
        load_scenario(file(LEAST), ["arms.1.n=0", "arms.2.n=0", "analysis.alpha=2"])


def test_paths_that_are_no_file(tmp_path, file):
    os.mkfifo(tmp_path / "pipe.toml")
    for path, part in (
        (tmp_path / "missing.toml", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.toml", "is no regular file"),
        (Path("/dev/null"), "is no regular file"),
        (file(LEAST) / "below.toml", "cannot be read: Not a directory"),
        (tmp_path / ("x" * 300 + ".toml"), "cannot be read: File name too long"),
        ("a\0b.toml", "is no path of a file"),
    ):
        with pytest.raises(InputError) as refused:
            load_scenario(path)
        assert part in str(refused.value) and "\n" not in str(refused.value)


def test_an_unreadable_file(file, monkeypatch):
    path = file(LEAST)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"scenario\.toml: cannot be read: Permission denied"):
        read_toml(path)


def test_a_file_too_large(file):
    with pytest.raises(InputError, match="larger than 10 MB"):
        read_toml(file(b"#" * (MAX_BYTES + 1)))


def test_a_name_that_is_neither_file_nor_shipped():
    with pytest.raises(InputError, match="phase_3: no such file or shipped scenario; did you mean 'phase3'"):
        load_scenario("phase_3")


def test_every_key_of_the_least_form_is_known():
    assert set(tomllib.loads(LEAST)) <= set(Scenario.model_fields)
