"""The page of several designs: what is swept, its figures and tables are those of the files, and nothing breaks it."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from inference import plots, plots_designs
from inference.cli import main
from inference.report import designs as page_of
from inference.report import sig
from inference.report.protocol import words
from inference.trials import run_trial
from inference.whatif import per_trial
from inference.whatif.designs import Design, together
from pkpd.scenario import load_scenario
from tests.inference.test_report import Page

STATED = ["trial", "group_sequential", "--set", "trial.n_trials=600", "--set", "arms.active.n=20,48"]
SIMULATED = [
    "trial", "start_and_interval", "--set", "trial.n_trials=20", "--set", "arms.1.start_dose_mg=2.5,5",
    "--set", "arms.1.n=16", "--set", "arms.2.n=8", "--set", "titration.up_every_d=14,28", "--patients",
]  # fmt: skip


SHOWN = (("response_week_8", "overshoot_250"), ("durable_response",))  # of simulated and of stated designs


class Made:
    """A sweep that was run into a folder, with its page."""

    def __init__(self, folder, arguments):
        assert main([*arguments, "--out", str(folder)]) == 0
        self.folder, self.text = folder, (folder / "report.html").read_text()
        self.page, self.summary = Page(self.text), pd.read_csv(folder / "summary.csv")
        self.differences = pd.read_csv(folder / "differences.csv")
        self.names = list(dict.fromkeys(self.summary["design"]))

    def cells(self) -> list[list[str]]:
        """The cells of every row of every table, as text."""
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", self.text, re.S)
        cut = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
        return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cut]


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("sweep") / "stated", STATED)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("sweep") / "simulated", SIMULATED)


def test_the_page_is_self_contained_and_links_to_each_design(simulated):
    sources = simulated.page.all("img", "src")
    assert len(sources) == 4 and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    assert "http" not in simulated.text.replace("http-equiv", "")
    ids = simulated.page.all("h2", "id")
    assert ids == ["swept", "power", "overshoot", "differences", "gains", "made"]
    links = simulated.page.all("a", "href")
    assert links[: len(ids)] == [f"#{i}" for i in ids]
    assert [simulated.folder / link for link in links[len(ids) :]] == [
        simulated.folder / name / "report.html" for name in simulated.names
    ]
    assert all((simulated.folder / link).is_file() for link in links[len(ids) :])
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", simulated.text, re.S)
    assert len(captions) == 4 and all("20 simulated trials" in c or "virtual patients" in c for c in captions)
    assert (simulated.folder / "power.png").is_file()


def test_what_is_swept_is_told_of_each_design(simulated):
    rows = [row for row in simulated.cells() if row[-1].startswith("report of ")]
    assert [row[:4] for row in rows] == [
        ["A", "2.5", "14", "24"], ["B", "2.5", "28", "24"], ["C", "5", "14", "24"], ["D", "5", "28", "24"],
    ]  # fmt: skip


def test_rates_and_errors_are_those_of_the_summary(simulated, stated):
    for made in (simulated, stated):
        found = {(row[0], row[1]): row[2:] for row in made.cells()}
        for (of, quantity), own in made.summary.groupby(["comparison", "quantity"], sort=False):
            if quantity.startswith("power_") or quantity in SHOWN[made is stated]:
                shown = [f"{sig(100 * r.estimate)} ({sig(100 * r.mc_se, 2)})" for r in own.itertuples()]
                assert found[words(quantity), of] == [*shown, "%"]


def test_differences_are_those_of_the_table_with_what_pairs_saved(simulated):
    rows = {(row[1], row[2]): row for row in simulated.cells() if row[0] == "B" or row[0] == ""}
    own = simulated.differences[simulated.differences["design"] == simulated.names[1]]
    row = own.set_index(["comparison", "quantity"]).loc[("hetrombopag", "response_week_8")]
    cells = {tuple(r[:3]): r for r in simulated.cells()}
    shown = cells["B", "hetrombopag", "response at week 8"]
    assert shown[3] == f"{100 * row['difference']:+.3g}" and shown[4] == sig(100 * row["mc_se"], 2)
    assert shown[7] == sig(100 * row["mc_se_if_independent"], 2)
    assert shown[8] == f"{20 * row['trials_saved']:,.0f} ({sig(row['trials_saved'], 2)} times)"
    assert ("placebo", "response at week 8") not in {(r[1], r[2]) for r in rows.values()}  # as in A, in every trial
    known = simulated.differences.set_index("quantity")["trials_saved"]
    assert page_of.saved([{"saved": x} for x in known.dropna()]) == pytest.approx(known.median())
    assert page_of.saved([{"saved": None}]) is None


def test_gains_are_those_of_the_table(simulated):
    gains = pd.read_csv(simulated.folder / "gains.csv")
    of_all = gains[(gains["arm"] == "hetrombopag") & (gains["band"] == "all")]
    cells = [row for row in simulated.cells() if len(row) == 10 and row[2] == "all"]
    assert [row[0] for row in cells] == ["B", "C", "D"]  # placebo is the same patient for patient
    for row, (_, own) in zip(cells, of_all.iterrows(), strict=True):
        assert row[3:6] == [f"{own['patients']:,}", sig(100 * own["both"]), sig(100 * own["only_design"])]
        assert row[8] == f"{100 * own['net_gain']:+.3g} ({sig(100 * own['net_gain_mc_se'], 2)})"
    rows = page_of.gain_rows(gains, dict(zip(simulated.names, "ABCD", strict=True)))
    assert {row["third"] for row in rows} >= {"all", "weight, lowest third", "weight, highest third"}
    figure = plots_designs.gains(rows)
    assert len([ax for ax in figure.axes if ax.get_visible()]) == 3


def test_how_it_was_made_is_told(simulated, stated):
    assert "pkpd trial group_sequential --set trial.n_trials=600 --set arms.active.n=20,48 --seed 1" in stated.page.text
    assert "--set titration.up_every_d=14,28 --seed 1 --patients" in simulated.page.text
    hashes = [row for row in stated.cells() if len(row) == 2 and re.fullmatch("[0-9a-f]{64}", row[1])]
    assert {row[0] for row in hashes} >= {"code", "library", "scenario of A", "scenario of B"}
    assert any(row[:1] == ["jax"] for row in stated.cells())


def test_stated_outcomes_have_size_but_no_overshoot(stated):
    assert stated.page.all("h2", "id") == ["swept", "power", "differences", "size", "made"]
    patients = stated.summary[stated.summary["quantity"] == "patients"]
    sizes = [f"{sig(r.estimate, 4)} ({sig(r.mc_se, 2)})" for r in patients.itertuples()]
    assert [row[1] for row in stated.cells() if len(row) == 2 and row[0] in "AB"] == sizes


def test_under_the_null_it_is_a_type_1_error(tmp_path):
    made = Made(tmp_path / "null", [*STATED, "--null"])
    assert "Type I error" in made.page.text and "Power" not in made.page.text.replace("power.png", "")


def of_stated(folder, *swept: dict) -> list[Design]:
    """Designs of stated outcome, without a report of their own."""
    found = []
    for i, values in enumerate(swept):
        scenario = load_scenario("group_sequential", ["trial.n_trials=50", *(f"{k}={v}" for k, v in values.items())])
        (folder / str(i)).mkdir()
        summary = run_trial(scenario, folder=folder / str(i))
        found.append(Design(str(i), values, scenario, pd.read_parquet(folder / str(i) / per_trial.FILE), summary))
    return found


def rendered(found: list[Design]) -> Page:
    hashes = {d.name: {"code": "0" * 64} for d in found}
    return Page(page_of.render(found, together(found)[1], None, "pkpd trial", 1, {"versions": {}}, hashes))


def test_two_keys_of_three_values_make_a_heat_map_and_three_keys_dots(tmp_path):
    sizes = (20, 30, 48)
    two = of_stated(tmp_path, *({"arms.1.n": n, "arms.2.n": m} for n in sizes for m in sizes))
    assert {"figure-power-map", "figure-rates-map"} <= set(rendered(two).all("figure", "id"))
    three = [d._replace(swept={**d.swept, "analysis.alpha": 0.025}) for d in two[:2]]
    page = rendered(three)
    assert page.all("figure", "id") == ["figure-power", "figure-rates"]
    assert "Letters: the designs of the table above" in page.text


def test_numbers_of_a_heat_map_are_where_their_values_are():
    rows = [
        {"a": a, "b": b, "comparison": "x", "quantity": "power_fisher", "estimate": a / 10 + b / 100, "mc_se": 0.01}
        for b in (1, 3, 2) for a in (1, 2, 3)
    ]  # fmt: skip
    ax = plots_designs.heat_map(pd.DataFrame(rows), ["a", "b"]).axes[0]
    ticks = [t.get_text() for t in ax.get_xticklabels()], [t.get_text() for t in ax.get_yticklabels()]
    assert ticks == (["1", "2", "3"], ["1", "2", "3"])
    assert {t.xy: t.get_text() for t in ax.texts}[2, 0] == "31.0\n±1.0"
    np.testing.assert_allclose(ax.images[0].get_array()[2], [0.13, 0.23, 0.33])


def test_the_power_of_a_picture_is_in_percent_with_its_interval():
    rows = pd.DataFrame(
        {"n": [10, 20], "comparison": "x", "quantity": "power_fisher", "estimate": [0.2, 0.6], "mc_se": 0.05}
    )
    figure = plots_designs.power_curves(rows, ["n"])
    line = next(x for x in figure.axes[0].lines if len(x.get_xdata()) == 2 and x.get_linewidth() > 0)
    np.testing.assert_allclose(line.get_ydata(), [20, 60])
    assert plots.svg(figure).startswith("<?xml") and figure.axes[0].get_xlabel() == "n"
    assert plots_designs.power_curves(pd.DataFrame(), ["n"]) is None


def test_marks_of_many_designs_differ():
    marks = page_of.letters(60)
    assert marks[:2] == ["A", "B"] and marks[26] == "A2" and len(set(marks)) == 60
