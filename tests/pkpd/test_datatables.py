"""The published tables: what they hold against the printed numbers, and what each bad line is told."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkpd import datatables
from pkpd.datatables import arm_counts, data_folder, published, quantities, read_table, table_names
from pkpd.errors import InputError

FITTED = ("response_week_8", "response_any", "response_75", "response_30_doubled", "rescue")
HEADER = "study,arm,n,quantity,value,unit,time_d,spread,spread_type,lower,upper,status,source"
GOOD = "S,a,10,response_any,4,patients,56,,,,,unpublished,own study"


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


# --- what the tables hold


def test_the_fitted_counts_are_the_printed_ones():
    counts = arm_counts(published("phase3_arms"), FITTED)
    assert counts.index.tolist() == [("NCT03222843", arm) for arm in ("start 2.5 mg", "start 5 mg", "placebo")]
    assert counts.to_numpy().tolist() == [
        [168, 99, 142, 55, 147, 22],
        [171, 110, 148, 98, 155, 17],
        [85, 5, 19, 2, 24, 32],
    ]


def test_classes_of_patients_add_up():
    table = published("phase3_arms").query("arm in ('start 2.5 mg', 'start 5 mg', 'placebo')")
    wide = table.pivot(index="arm", columns="quantity", values="value")
    n = table.query("quantity == 'female'").set_index("arm")["n"].astype(float).reindex(wide.index)
    years = ["itp_0_5_to_1_year", "itp_1_to_3_years", "itp_3_to_5_years", "itp_5_years_or_more"]
    platelets = ["baseline_platelets_below_10", "baseline_platelets_10_to_30"]
    grades = [f"bleeding_grade_{g}" for g in (1, 2, 3, 4)]
    assert (wide[years].sum(axis=1) == n).all()
    assert (wide[platelets].sum(axis=1) == n).all()
    assert (wide[grades].sum(axis=1) == wide["bleeding_any"]).all()
    assert (table.query("quantity == 'bleeding_any'")["n"] == [167, 171, 85]).all()


@pytest.mark.parametrize(
    ("name", "query", "values"),
    [
        ("phase3_arms", "quantity == 'longest_response_median'", [22, 22, 8.5]),
        ("phase3_arms", "quantity == 'total_response_median'", [23, 33, 8.5]),
        ("phase3_arms", "quantity == 'ae_platelet_count_increased'", [4, 24, 2]),
        ("phase3_arms", "quantity == 'response_week_8_percent'", [68.8, 74.3, 7.7]),
        ("food", "quantity == 'cmax_change'", [-95, -56, -44]),
        ("food", "quantity in ('auc_t_change', 'auc_inf_change')", [-98.7, -74.6, -61]),
        ("food", "quantity == 'platelet_rise'", [15.8, 6.96, 10.26]),
        ("pharmacokinetics", "quantity.str.startswith('terminal_half_life')", [11.9, 40.1]),
        ("pharmacokinetics", "quantity == 'auc_tau_upper_bound'", [326, 653, 979]),
        ("pharmacokinetics", "spread_type == 'ci90'", [96.0, 104.2]),
        ("in_vitro", "unit == 'nM'", [0.4, 13.4]),
        ("other_trials", "n < 20", [1, 7, 8]),
        ("other_trials", "n == 339", [144, 254]),
        ("class_trials", "study == 'TRA100773A' and unit == '%'", [11, 28, 70, 81]),
        ("class_trials", "study == 'TRA100773A' and unit == 'patients'", [3, 8, 19, 21]),
        ("class_trials", "quantity == 'response_50_and_plus_20_percent'", [0, 13, 53, 50, 80]),
        ("class_trials", "quantity == 'durable_response'", [25, 1, 16, 0]),
        ("drug_models", "quantity == 'clearance_effect'", [-33, -26, -19, 17]),
        ("physiology", "quantity == 'tpo_concentration'", [1.25, 0.55, 13.7]),
        ("physiology", "quantity == 'platelet_survival'", [1.6, 3.6]),
    ],
)
def test_printed_numbers(name, query, values):
    assert published(name).query(query)["value"].tolist() == values


def test_derived_rows_follow_from_the_published_ones():
    pk = published("pharmacokinetics")
    clearance = pk.query("quantity == 'clearance'")["value"].item()
    volume = pk.query("quantity == 'central_volume'")["value"].item()
    bound = pk.query("quantity == 'auc_tau_upper_bound'")
    assert (bound["value"] == (bound["dose_mg"] * 1000 / clearance).round()).all()
    half_life = pk.query("quantity == 'half_life_cl_over_v'")["value"].item()
    assert half_life == pytest.approx(math.log(2) * volume / clearance, abs=0.05)
    mass = pk.query("arm == 'hetrombopag free acid'").set_index("quantity")["value"]
    assert mass["nM_per_ng_per_ml"] == pytest.approx(1000 / mass["molar_mass"], abs=5e-4)
    for study in ("TRA100773A", "avatrombopag phase 2"):
        rows = published("class_trials")
        rows = rows[rows["study"] == study]
        counts = rows[rows["unit"] == "patients"]
        percent = rows[rows["unit"] == "%"]["value"].to_numpy()
        assert ((100 * counts["value"] / counts["n"]).astype(float).round().to_numpy() == percent).all()


def test_nothing_is_called_more_than_it_is():
    """Secondary, derived and assumed rows, all of them; a shipped row is never a user's own."""
    tables = pd.concat([published(name) for name in table_names()])
    assert set(tables["status"]) == {"published", "secondary", "derived", "assumed"}
    assumed = tables.query("status == 'assumed'")
    assert set(assumed["study"]) == {"TRA100773A", "assumption"}
    assert set(tables.query("status == 'secondary'")["study"]) == {
        "Xie 2018",
        "Farrell 2014",
        "Wang 2010",
        "Petrov 2024",
    }
    assert not tables["source"].str.contains("simulat|synthetic", case=False).any()
    dois = tables.query("doi != ''")["doi"]
    assert dois.str.fullmatch(r"10\.\d{4,5}/\S+").all()


def test_every_quantity_is_used_and_every_table_is_described():
    used = {quantity for name in table_names() for quantity in published(name)["quantity"]}
    assert used == set(quantities())
    assert {q.kind for q in quantities().values()} == {"count", "number"}
    readme = (data_folder() / "README.md").read_text()
    assert all(f"`{name}.csv`" in readme for name in (*table_names(), "quantities"))
    assert all(f"`{column}`" in readme for column in datatables.COLUMNS)


def test_types_of_columns():
    table = published("phase3_arms")
    assert tuple(table.columns) == datatables.COLUMNS
    assert str(table["n"].dtype) == "Int64"
    assert {str(table[column].dtype) for column in datatables.NUMBERS} == {"float64"}
    assert table["note"].map(type).eq(str).all()


def test_unknown_table():
    with pytest.raises(InputError, match="unknown data table 'phase3_arm'; did you mean 'phase3_arms'"):
        published("phase3_arm")


# --- a table of one's own


def test_least_table(tmp_path):
    path = write(
        tmp_path / "own.csv",
        "\ufeffarm, study,quantity,n,value,unit,status,source",
        '"dose ""A"", high",S,response_any,10,4,patients,unpublished,"two\nlines"',
        "",
        "b,S,platelets_median,,12.5,1e9/L,unpublished,own study",
    )
    table = read_table(path)
    assert table["arm"].tolist() == ['dose "A", high', "b"]
    assert table["value"].tolist() == [4, 12.5]
    assert table["n"].isna().tolist() == [False, True]
    assert table["time_d"].isna().all() and (table["doi"] == "").all()


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 10**7),
    share=st.floats(0, 1),
    time=st.floats(0, 1e4),
    arm=st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1),
)
def test_what_is_written_is_read(tmp_path_factory, n, share, time, arm):
    path = tmp_path_factory.mktemp("round") / "own.csv"
    row = {"study": "S", "arm": arm, "n": n, "quantity": "rescue", "value": int(share * n), "unit": "patients"}
    row |= {"time_d": time, "status": "unpublished", "source": "own study"}
    pd.DataFrame([row]).to_csv(path, index=False)
    table = read_table(path)
    assert {key: table[key].item() for key in row} == row


BAD_LINES = [
    (
        "S,a,10,response_any,11,patients,56,,,,,unpublished,x",
        "value = 11: not a count out of n; legal: a whole number from 0 to 10",
    ),
    ("S,a,10,response_any,4.5,patients,56,,,,,unpublished,x", "value = 4.5: not a count out of n"),
    ("S,a,10,response_any,-1,patients,56,,,,,unpublished,x", "value = -1: out of range; legal: at least 0"),
    ("S,a,10,response_any,nan,patients,56,,,,,unpublished,x", "value = 'nan': not a finite number"),
    ("S,a,10,response_any,inf,patients,56,,,,,unpublished,x", "value = 'inf': not a finite number"),
    ("S,a,10,response_any,four,patients,56,,,,,unpublished,x", "value = 'four': not a finite number; legal: a number"),
    ("S,a,10,response_any,,patients,56,,,,,unpublished,x", "value is blank; legal: a number"),
    (
        "S,a,,response_any,4,patients,56,,,,,unpublished,x",
        "n is blank; legal: a whole number, since response_any counts",
    ),
    (
        "S,a,0,response_any,0,patients,56,,,,,unpublished,x",
        "n = '0': not legal; legal: a whole number from 1 to 10000000",
    ),
    ("S,a,10.0,response_any,4,patients,56,,,,,unpublished,x", "n = '10.0': not legal"),
    ("S,a,-10,response_any,4,patients,56,,,,,unpublished,x", "n = '-10': not legal"),
    ("S,a,10000001,response_any,4,patients,56,,,,,unpublished,x", "n = '10000001': not legal"),
    (
        "S,a,10,response_an,4,patients,56,,,,,unpublished,x",
        "unknown quantity 'response_an'; did you mean 'response_any'?",
    ),
    ("S,a,10,response_any,4,%,56,,,,,unpublished,x", "unit = '%': wrong for response_any; legal: 'patients'"),
    ("S,a,10,response_any,4,patients,56,,,,,publishd,x", "status = 'publishd': not legal; did you mean 'published'?"),
    ("S,a,10,response_any,4,patients,56,,,,,,x", "status = '': not legal; legal names: assumed, derived, published"),
    ("S,a,10,response_any,4,patients,56,,,,,published,", "source is blank; legal: a text"),
    (",a,10,response_any,4,patients,56,,,,,unpublished,x", "study is blank"),
    ("S, ,10,response_any,4,patients,56,,,,,unpublished,x", "arm is blank"),
    ("S,a,10,response_any,4,patients,-7,,,,,unpublished,x", "time_d = -7: negative; legal: 0 or more"),
    ("S,a,10,response_any,4,patients,week 8,,,,,unpublished,x", "time_d = 'week 8': not a finite number"),
    ("S,a,10,response_any,4,patients,56,,,,,unpublished", "12 cells; legal: 13, as in the header"),
    ("S,a,10,response_any,4,patients,56,,,,,unpublished,x,y", "14 cells; legal: 13"),
    (
        "S,a,10,platelets_median,40,1e9/L,56,5,sdd,,,unpublished,x",
        "spread_type = 'sdd': not legal; did you mean 'sd'?",
    ),
    (
        "S,a,10,platelets_median,40,1e9/L,56,5,,,,unpublished,x",
        "spread_type = '' does not fit; legal: sd, se, cv_percent with",
    ),
    ("S,a,10,platelets_median,40,1e9/L,56,,sd,,,unpublished,x", "spread_type = 'sd' does not fit"),
    ("S,a,10,platelets_median,40,1e9/L,56,-5,sd,,,unpublished,x", "spread = -5: negative; legal: 0 or more"),
    ("S,a,10,platelets_median,40,1e9/L,56,,range,10,,unpublished,x", "spread_type = 'range' does not fit"),
    (
        "S,a,10,platelets_median,40,1e9/L,56,,range,50,60,unpublished,x",
        "lower = 50, upper = 60: do not enclose the value 40",
    ),
    (
        "S,a,10,response_week_8_percent,101,%,56,,,,,unpublished,x",
        "value = 101: out of range; legal: at least 0 and at most 100",
    ),
    ('S,"a,10,response_any,4,patients,56,,,,,unpublished,x', "malformed CSV"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_bad_lines(tmp_path, line, message):
    path = write(tmp_path / "own.csv", HEADER, GOOD.replace(",a,", ",first,"), line)
    with pytest.raises(InputError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: line 3: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, GOOD], "line 3: same study, arm, quantity and time_d as line 2; legal: once"),
        ([GOOD.replace(",56,", ",,")] * 2, "line 3: same study, arm, quantity and time_d as line 2"),
        (
            [GOOD, GOOD.replace(",56,", ",28,")],
            "line 3: time_d = 28: earlier than 56 in line 2; legal: times of a study",
        ),
        (
            [GOOD, GOOD.replace("any,4", "week_8,5")],
            "line 3: response_week_8 = 5: more than response_any = 4 of the same arm; legal: at most that",
        ),
        ([GOOD.replace("any,4", "75,5"), GOOD], "line 2: response_75 = 5: more than response_any = 4"),
        ([], "no rows below the header"),
    ],
)
def test_bad_combinations_of_lines(tmp_path, lines, message):
    path = write(tmp_path / "own.csv", HEADER, *lines)
    with pytest.raises(InputError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("quantity", "quantty"), "line 1: unknown column 'quantty'; did you mean 'quantity'?"),
        (HEADER.replace("status,", ""), "line 1: missing column 'status'"),
        (HEADER + ",study", "line 1: column 'study' stands twice; legal: once"),
        ("", "empty; legal: a header with study, arm"),
    ],
)
def test_bad_headers(tmp_path, header, message):
    path = write(tmp_path / "own.csv", header, GOOD)
    with pytest.raises(InputError) as error:
        read_table(path)
    assert message in str(error.value)


def test_unreadable_tables(tmp_path):
    for name, content, message in (
        ("binary.csv", b"\x89PNG\r\n\x1a\n\xff\x00", "is not text (UTF-8); a CSV file is expected"),
        ("empty.csv", b"", "empty; legal: a header"),
        ("zero.csv", b"study,arm\x00,n\n", "arm"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            read_table(tmp_path / name)
        assert name in str(error.value) and message in str(error.value)
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="is a folder; a CSV file is expected"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        read_table(tmp_path / "empty.csv" / "below.csv")


# --- counts by arm


def test_arm_counts_takes_only_complete_arms(tmp_path):
    other = GOOD.replace(",a,", ",b,")
    path = write(tmp_path / "own.csv", HEADER, GOOD, other, GOOD.replace("response_any,4", "rescue,1"))
    counts = arm_counts(read_table(path), ["rescue", "response_any"])
    assert counts.reset_index().to_dict("records") == [
        {"study": "S", "arm": "a", "n": 10, "rescue": 1, "response_any": 4}
    ]


@pytest.mark.parametrize(
    ("lines", "names", "message"),
    [
        ([GOOD], ["rescu"], "unknown quantity 'rescu'; did you mean 'rescue'?"),
        ([GOOD], ["response_any", "rescue"], "no arm reports all of response_any, rescue"),
        ([GOOD, GOOD.replace(",56,", ",70,")], ["response_any"], "S, a: a quantity at several times"),
        (
            [GOOD, GOOD.replace(",10,response_any,4", ",11,rescue,4")],
            ["response_any", "rescue"],
            "S, a: n = 10, 11; legal: one n for an arm",
        ),
    ],
)
def test_bad_arm_counts(tmp_path, lines, names, message):
    table = read_table(write(tmp_path / "own.csv", HEADER, *lines))
    with pytest.raises(InputError) as error:
        arm_counts(table, names)
    assert message in str(error.value)
