"""A user's own table of patients: who is drawn from it, what stays as it was, and the message of each bad table."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pkpd import cohort, random
from pkpd.errors import InputError
from pkpd.notebook import simulate_scenario
from pkpd.parameters import load_library
from pkpd.patients import COVARIATES, MAX_ROWS
from pkpd.planned import planned_arms
from pkpd.scenario import build, load_scenario
from pkpd.scenario_text import describe
from pkpd.tomlfile import read_toml
from tests.pkpd.test_scenario import LEAST

FROZEN = {
    "random_effects": 0.5169768333435059,
    "weight": 0.8578988313674927,
    "baseline": 0.1678074598312378,
    "covariates": 0.46396398544311523,
    "drift": 0.3812822103500366,
    "residual": 0.8287763595581055,
    "rescue": 0.43726158142089844,
    "dropout": 0.9802728891372681,
    "visit_day": 0.7349638938903809,
    "missed_visit": 0.5556615591049194,
    "adherence": 0.1293877363204956,
    "adherence_level": 0.02518308162689209,
    "meal": 0.12869083881378174,
    "informative_dropout": 0.4431384801864624,
    "table_row": 0.10333013534545898,
    "screening": 0.6297427415847778,
    "other_failure": 0.8491902351379395,
    "allocation": 0.2153177261352539,
    "age": 0.1442958116531372,
}  # fmt: skip
ROWS = "weight_kg,baseline_1e9_per_l,female,splenectomy\n50,10,1,0\n60,20,0,0\n70,29.5,1,1\n80,30,1,1\n"


@pytest.fixture
def scenario(tmp_path):
    def write(table=ROWS, settings=()):
        (tmp_path / "table.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        text = LEAST.replace("[titration]", 'patients = "table.csv"\n[titration]')
        (tmp_path / "s.toml").write_text(text)
        return load_scenario(tmp_path / "s.toml", settings)

    return write


def drawn(table, n=4000, dtype=jnp.float32):
    numbers = np.arange(n, dtype=np.int32)
    keys = random.patient_keys(random.root(5), 0 * numbers, 0 * numbers, numbers)
    return jax.jit(cohort.draw)(load_library().population(dtype), keys, np.float32(30), table)


def test_rows_are_drawn_in_equal_shares_and_those_not_eligible_never(scenario):
    table = scenario().entry.table()
    people, n = drawn(table), 4000
    for weight, baseline, female, splenectomy in ((50, 10, 1, 0), (60, 20, 0, 0), (70, 29.5, 1, 1)):
        own = np.asarray(people.weight_kg) == weight
        assert abs(own.mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / n)
        assert (np.asarray(people.parameters.baseline_platelets_1e9_per_l)[own] == baseline).all()
        assert (np.asarray(people.covariates.female_clearance_ratio)[own] == female).all()
        assert (np.asarray(people.covariates.splenectomy_clearance_ratio)[own] == splenectomy).all()
    assert set(np.unique(people.weight_kg)) == {50, 60, 70}
    again = drawn(table, dtype=jnp.float64)
    np.testing.assert_array_equal(again.weight_kg, people.weight_kg)


def test_all_that_the_table_lacks_is_as_without_it(scenario):
    people, usual = drawn(scenario().entry.table()), drawn(None)
    for name in ("receptor_ec50_nM", "max_stimulation", "mean_transit_time_h", "dimer_efficacy"):
        np.testing.assert_array_equal(getattr(people.parameters, name), getattr(usual.parameters, name))
    np.testing.assert_array_equal(people.noise.residual_log_sd, usual.noise.residual_log_sd)
    for name in ("corticosteroid", "east_asian", "hepatic_impairment"):
        column = f"{name}_clearance_ratio"
        np.testing.assert_array_equal(getattr(people.covariates, column), getattr(usual.covariates, column))
    assert (np.asarray(people.weight_kg) != np.asarray(usual.weight_kg)).all()


def test_the_streams_of_other_purposes_do_not_move():
    """Frozen words of the generator: integers, the same on every machine."""
    keys = random.patient_keys(random.root(1), *(np.array([k], np.int32) for k in (2, 3, 4)))
    found = {p: float(random.uniform(keys, 7, p)[0]) for p in (*random.PURPOSES, *random.OF_PROTOCOLS)}
    assert list(random.OF_PROTOCOLS).index("table_row") == 6 and len(set(found.values())) == len(found)
    assert found == FROZEN


def test_of_one_row_everybody_is_that_patient_through_a_whole_trial(scenario):
    one = scenario("baseline_1e9_per_l,weight_kg\n17,91\n", ["arms.1.n=40", "arms.2.n=20"])
    data = simulate_scenario(one)
    assert (data["baseline"] == 17).all() and (data["weight_kg"] == 91).all()
    assert len(np.unique(data["platelets_true"].values[0])) > 50


def test_a_table_is_content_and_not_a_path(scenario, tmp_path):
    first = scenario()
    there = pickle.loads(pickle.dumps(first))
    assert there == first and planned_arms(there)[0].arm.table.weight_kg.tolist() == [50, 60, 70]
    assert "weight_kg" not in repr(first)
    changed = scenario(ROWS.replace("60,20", "61,20"))
    assert repr(changed) != repr(first) and changed.model_dump_json() != first.model_dump_json()
    assert repr(scenario(ROWS.replace("60,20,", "60, 20.0 ,"))) == repr(first)


def test_check_counts_who_is_left_out(scenario):
    assert "Patients: drawn from 3 of table.csv (1 not eligible, left out), median baseline 20" in describe(scenario())
    at_40 = describe(scenario(settings=["entry.platelets_below_1e9_per_l=40"]))
    assert "drawn from 4 of table.csv (0 not eligible" in at_40 and "75% female" in at_40


def test_the_path_of_a_shipped_scenario_is_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text(ROWS)
    assert load_scenario("phase3", ["entry.patients=mine.csv"]).entry.patients.rows == 4
    with pytest.raises(InputError, match=r"nobody\.csv: no such file"):
        load_scenario("phase3", ["entry.patients=nobody.csv"])


BAD = [
    ("", "table.csv: empty; legal: a header with baseline_1e9_per_l, weight_kg"),
    ("weight_kg,baseline_1e9_per_l\n", "table.csv: 0 rows below the header; legal: from 1 to"),
    ("weight_kg\n50\n", "table.csv: line 1: missing column 'baseline_1e9_per_l'"),
    ("weight_kg;baseline_1e9_per_l\n50;9\n", "line 1: columns are separated by semicolons; legal: by commas"),
    ("weight_kg,baseline_1e9_per_l,femal\n50,9,1\n", "line 1: unknown column 'femal'; did you mean 'female'?"),
    ("weight_kg,baseline_1e9_per_l,weight_kg\n50,9,1\n", "column 'weight_kg' stands twice"),
    ("weight_kg,baseline_1e9_per_l\n50,9\nlow,9\n", "line 3: weight_kg = 'low'; legal: a number above 0"),
    ("weight_kg,baseline_1e9_per_l\n50,\n", "line 2: baseline_1e9_per_l = ''; legal: a number above 0"),
    ("weight_kg,baseline_1e9_per_l\n50,0\n", "line 2: baseline_1e9_per_l = '0'; legal: a number above 0"),
    ("weight_kg,baseline_1e9_per_l\n50,-3\n", "line 2: baseline_1e9_per_l = '-3'"),
    ("weight_kg,baseline_1e9_per_l\nnan,3\n", "line 2: weight_kg = 'nan'"),
    ("weight_kg,baseline_1e9_per_l\n60000,3\n", "weight_kg = '60000'; legal: a number above 0 and at most 1000"),
    ("weight_kg,baseline_1e9_per_l,female\n50,9,yes\n", "line 2: female = 'yes'; legal: 0 or 1"),
    ("weight_kg,baseline_1e9_per_l\n50\n", "line 2: 1 cells; legal: 2"),
    ("weight_kg,baseline_1e9_per_l\n50,30\n60,31\n", "none of 2 patients is eligible, the lowest baseline count is 30"),
    (b"\xff\xfe\x00", "is not text (UTF-8); a CSV file is expected"),
    ("weight_kg,baseline_1e9_per_l\n" + "50,9\n" * (MAX_ROWS + 1), "100001 rows below the header"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "message"), BAD)
def test_a_bad_table_is_one_clear_error(scenario, table, message):
    with pytest.raises(InputError) as caught:
        scenario(table)
    text = str(caught.value)
    assert message in text and "\n" not in text and "s.toml: entry" in text and "table.csv" in text


@pytest.mark.parametrize("value", ["5", "''", "nobody.csv", "'.'", "{a = 1}"])
def test_a_bad_path_is_one_clear_error(scenario, value):
    with pytest.raises(InputError, match=r"entry\.patients") as caught:
        scenario(settings=[f"entry.patients={value}"])
    assert "CSV file" in str(caught.value) or "no such file" in str(caught.value)


def test_tables_that_python_gives_are_read_as_those_of_a_file(scenario, tmp_path):
    made = scenario()
    data = read_toml(tmp_path / "s.toml")
    data["entry"] = {**data["entry"], "patients": made.entry.patients}
    assert build(data, str(tmp_path / "s.toml")) == made
    assert set(made.entry.patients.covariates) <= set(COVARIATES)
