"""The report: one self-contained page that says what was fitted, how well, and what was assumed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from inference import diagnostics, labels, plots, report, store
from inference.report import numbers
from pkpd.errors import InputError
from pkpd.parameters import load_library
from tests.inference import made_up

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}
NASTY = "<script>alert(1)</script> & \"more\""  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str, key: str) -> list[str | None]:
        return [attrs[key] for name, attrs in self.tags if name == tag and key in attrs]


def build(result, folder) -> str:
    store.save(result, folder)
    path = report.build(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fitted():
    result = made_up.result(draws=60, leave_out=("placebo",))
    return result._replace(reasons=[NASTY])


@pytest.fixture(scope="module")
def html(fitted, tmp_path_factory):
    return build(fitted, tmp_path_factory.mktemp("fitted"))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def prior_page(tmp_path_factory):
    return Page(build(made_up.result(draws=60, prior_only=True), tmp_path_factory.mktemp("prior")))


def test_the_page_needs_nothing_but_itself(page, html):
    assert len(html) < 6e6
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    sources = page.all("img", "src")
    assert len(sources) == 15 and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page.all("meta", "content")[1]


def test_every_entry_of_the_contents_leads_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    inside = [href[1:] for href in page.all("a", "href") if href.startswith("#")]
    assert len(inside) >= 13 and set(inside) <= set(ids)


def test_figures_are_numbered_in_order_and_described(page):
    assert [int(n) for n in re.findall(r"Figure (\d+)\.", page.text)] == list(range(1, 16))
    assert all(len(alt) > 10 for alt in page.all("img", "alt"))


def test_what_was_fitted_is_said_with_its_source(page, fitted):
    assert "10.1186/s13045-021-01047-9" in page.text and "NCT03222843" in page.text
    for arm, n in zip(fitted.arms, fitted.n, strict=True):
        assert f"{arm}n = {n}" in page.text.replace(" n =", "n =")
    assert "99 (59%)" in page.text and "2 (2.4%)" in page.text
    for quantity in fitted.quantities:
        assert labels.QUANTITIES[quantity] in page.text


def test_an_arm_left_out_is_marked_everywhere(page):
    assert "placebo, n = 85 (left out of the fit)" in page.text
    assert "Prediction of what was not fitted: of the 5 counts of arms left out" in page.text
    assert "Of the 10 fitted counts" in page.text


def test_everything_fixed_is_listed_with_status_and_source(page, fitted):
    assert len(fitted.fixed) > 30
    for row in fitted.fixed:
        assert row["name"] in page.text and " ".join(row["source"].split()) in page.text
    assert "days since the dose given last changed" in page.text, "the titration table"
    assert all(status in page.text for status in ("published", "derived", "assumed"))


def test_every_free_parameter_has_its_row(page, fitted):
    for name in fitted.posterior:
        assert f"{name} {labels.symbol(name)}" in page.text or f"{name}{labels.symbol(name)}" in page.text, name


def test_the_misfit_of_half_life_is_said(page):
    assert "11.9 to 40.1 h" in page.text and "Misfit." in page.text
    assert "but from a lower value than 11.9 h, and not as far as 40.1 h" in page.text
    assert "more than dose-proportional, as published" in page.text


def test_in_vitro_and_fitted_ec50_stand_side_by_side_with_the_reason(page, prior_page, fitted):
    row = store.summary(fitted).set_index("parameter").loc["receptor_ec50_nM"]
    low, middle, high = (row[q] for q in ("q2.5", "q50", "q97.5"))
    start = page.text.index("In a dish and in plasma: two EC50s")
    words = page.text[start:]
    assert f"{report.sig(middle)} ({report.sig(low)}–{report.sig(high)})" in words, "as in the summary"
    assert f"{report.sig(middle / 0.4)} ({report.sig(low / 0.4)}–{report.sig(high / 0.4)})" in words
    assert "0.400" in words and "10.1111/jcmm.13809" in words and "secondary" in words
    assert "Why they differ: the medium of a dish holds little protein" in words
    assert f"(contraction {row['contraction']:.2f}, section 7)" in words
    assert "is that of the prior: nothing was fitted" in prior_page.text


def test_a_drug_without_an_in_vitro_ec50_has_a_report_too(fitted, monkeypatch):
    def none(drug):
        raise InputError(f"no row for {drug}")

    from inference.config import load

    monkeypatch.setattr("pkpd.assay.in_vitro_ec50", none)
    assert report._ec50s(fitted, load()) == {}


def test_limits_verdict_and_manifest_are_there(page, fitted):
    assert "not for treatment decisions" in page.text
    assert "Verdict: preliminary." in page.text
    assert "sha256: code" in page.text and "0" * 64 in page.text
    assert "seed = 1" in page.text, "the config"
    assert "k-hat of the correction" in page.text and "not measured" in page.text


def test_text_from_outside_is_escaped(page, html):
    assert NASTY in page.text and NASTY not in html


def test_a_prior_alone_is_called_so(prior_page):
    assert "Prior only." in prior_page.text and "Nothing was fitted." in prior_page.text
    assert "Verdict" not in prior_page.text and "contraction" not in prior_page.text.lower()
    assert "The prior predictive 95% intervals contain" in prior_page.text
    assert len(prior_page.all("img", "src")) == 9


def test_a_page_can_be_made_again_and_is_the_same(fitted, html, tmp_path):
    assert build(fitted, tmp_path) == html


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not the run folder of a fit"):
        report.build(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_scenario_that_is_gone_does_not_stop_the_report(monkeypatch):
    from inference.config import load

    config = load().model_copy(update={"scenario": "/nowhere/trial.toml"})
    plan, missing = report._plan(config)
    assert "/nowhere/trial.toml" in missing and plan.data.arms == made_up.ARMS
    assert report._sources(config, plan, missing) == []


# Numbers


def test_interval_scores():
    assert numbers.interval_score(10, 20, 15) == 10
    assert numbers.interval_score(10, 20, 20) == 10
    assert numbers.interval_score(10, 20, 8) == 10 + 40 * 2
    assert numbers.interval_score(10, 20, 23) == 10 + 40 * 3


def test_predicting_each_count_by_its_own_binomial_has_width_one(fitted):
    rng = np.random.default_rng(3)
    rate = fitted.observed / fitted.n[:, None]
    own = rng.binomial(fitted.n[:, None], rate, size=(20_000, *rate.shape))
    # and 1.42 if the rate itself is known from that count alone
    doubled = rng.binomial(fitted.n[:, None], own / fitted.n[:, None])
    for counts, expected in ((own, 1.0), (doubled, 1.42)):
        fit = numbers.fit_of(numbers.predictions(fitted._replace(posterior_predictive=counts)))
        assert fit.counts == fit.inside == 15
        assert fit.width_ratio == pytest.approx(expected, abs=0.03)


def test_a_count_outside_is_counted_and_costs(fitted):
    far = fitted._replace(posterior_predictive=np.zeros_like(fitted.posterior_predictive))
    rows = numbers.predictions(far)
    assert sum(row["inside"] for row in rows) == 0
    assert rows[0]["score"] == 40 * 99 and (rows[0]["low"], rows[0]["high"]) == (0, 0)
    assert numbers.fit_of([]) is None


def test_directions_find_the_combination_the_data_know():
    rng = np.random.default_rng(5)
    prior = {"max_stimulation": np.exp(rng.normal(size=4000)), "receptor_ec50_nM": np.exp(rng.normal(size=4000))}
    along, across = rng.normal(size=(2, 4, 1000))
    # the difference of the logs is known to a tenth, their sum not at all
    logs = {"max_stimulation": along + 0.1 * across, "receptor_ec50_nM": along - 0.1 * across}
    posterior = {name: np.exp(v / np.sqrt(2)) for name, v in logs.items()}
    result = made_up.result(draws=20)._replace(prior=prior, posterior=posterior)
    found = numbers.directions(result)
    assert (found["learned"], found["total"]) == (1, 2)
    assert found["effective"] == pytest.approx(0.99, abs=0.05)
    best = found["best"][0]
    assert best["sd_ratio"] == pytest.approx(0.1, rel=0.1)
    assert sorted(abs(weight) for _, weight in best["terms"]) == pytest.approx([2**-0.5] * 2, abs=0.02)
    assert best["terms"][0][1] * best["terms"][1][1] < 0
    pairs = numbers.strongest_pairs(list(posterior), numbers.correlation(result))
    assert [p["correlation"] > 0.95 for p in pairs] == [True]


def test_weak_correlations_are_not_listed():
    assert numbers.strongest_pairs(["a", "b"], np.array([[1, 0.2], [0.2, 1]])) == []
    names, matrix = ["a", "b", "c"], np.array([[1, 0.4, -0.9], [0.4, 1, 0.1], [-0.9, 0.1, 1]])
    assert [(p["first"], p["second"]) for p in numbers.strongest_pairs(names, matrix)] == [("a", "c"), ("a", "b")]


def test_criteria_are_those_of_the_verdict(fitted):
    rows = {row["name"]: row for row in numbers.criteria(fitted)}
    assert list(rows) == [c.name for c in diagnostics.CRITERIA]
    assert (rows["rhat_max"]["met"], rows["rhat_max"]["need"]) == (True, "below 1.01")
    assert rows["ess_bulk_min"]["met"] is False
    assert rows["khat"]["met"] is None and rows["khat"]["value"] is None
    assert all(row["meaning"] for row in rows.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0912, "0.0912"), (7.658, "7.66"), (30.0, "30.0"), (132.4, "132"), (12345.6, "12,346"), (0, "0"),
     (1e-7, "1.00e-07"), (None, "–"), (float("nan"), "–"), (-0.5, "-0.500"), ("text", "text")],
)  # fmt: skip
def test_numbers_are_rounded_to_what_they_mean(value, text):
    assert report.sig(value) == text


def test_small_words():
    assert report.listed(["a", "b", "c"]) == "a, b and c"
    assert (report.listed(["a"]), report.listed([])) == ("a", "")
    assert [report.percent(v) for v in (0.0, 5.88, 9.97, 58.9)] == ["0", "5.9", "10", "59"]
    assert report.breakable("a_<b") == "a_<wbr>&lt;b"


# Figures


@pytest.mark.parametrize("draw", [plots.observed_predicted, plots.platelet_courses, plots.examples, plots.dose_levels])
def test_figures_have_titles_and_axes_with_units(fitted, draw):
    fig = draw(fitted)
    assert fig.get_suptitle()
    words = {ax.get_xlabel() for ax in fig.axes} | {ax.get_ylabel() for ax in fig.axes} - {""}
    assert words & {"patients (%)", "day"}
    assert words <= {"", "patients (%)", "day", labels.COUNT}
    assert plots.svg(fig) == plots.svg(draw(fitted)), "the same result makes the same picture"


def test_arms_and_doses_keep_their_colours():
    colours = labels.arm_colours(made_up.ARMS)
    assert len(set(colours.values())) == 3 and colours["placebo"] == labels.PLACEBO_COLOUR
    assert labels.arm_colours(made_up.ARMS[::-1])["placebo"] == labels.PLACEBO_COLOUR
    assert len(set(labels.dose_colours([2.5, 3.75, 5, 7.5]))) == 4


def test_names_and_units_of_parameters():
    assert labels.parameter("clearance_l_per_h") == "CL (L/h)"
    assert labels.parameter("clearance_l_per_h_iiv_log_sd") == "IIV CL"
    assert labels.symbol("kappa_stat5") == "kappa_stat5"
    short = [labels.symbol(n) for n in load_library().names()]
    assert len(set(short)) == len(short), "no two parameters share a label"
    assert labels.symbol("not a parameter") == "not a parameter"


def test_the_picture_of_the_readme(fitted, tmp_path):
    plots.readme_figure(fitted, tmp_path / "fit.png")
    height, width, _ = imread(tmp_path / "fit.png").shape
    assert width > 1.3 * height > 1000
    assert (tmp_path / "fit.png").stat().st_size < 400_000


def test_the_ridge_between_noise_and_drug_effect(fitted):
    found = numbers.noise_ridge(fitted)
    names = list(fitted.posterior)
    matrix = numbers.correlation(fitted)
    first = found["pairs"][0]
    assert first["correlation"] == pytest.approx(matrix[names.index(first["noise"]), names.index(first["drug"])])
    assert len(found["pairs"]) == 9 and 1 >= found["canonical"] >= abs(first["correlation"])
    without = {n: v for n, v in fitted.posterior.items() if n not in numbers.NOISE}
    assert numbers.noise_ridge(fitted._replace(posterior=without)) is None


def test_the_canonical_correlation_of_a_sum():
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal((5000, 2)), rng.standard_normal((5000, 3))
    assert numbers.canonical(x, e) < 0.1
    e[:, 1] = x @ [0.6, 0.8] + 0.5 * e[:, 1]
    assert numbers.canonical(x, e) == pytest.approx(1 / np.sqrt(1.25), abs=0.02)
