"""Reading the library's files: each spoiled file, key and value with the message it gets."""

from __future__ import annotations

import re
import shutil
import tomllib

import numpy as np
import pytest

from pkpd import loading, tables
from pkpd.errors import InputError
from pkpd.parameters import load_centre, load_library


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped library that a test may spoil."""
    return shutil.copytree(tables.FOLDER, tmp_path / "library")


@pytest.mark.parametrize(
    ("drug", "disease", "message"),
    [
        ("hetrombopagg", "itp", "unknown drug 'hetrombopagg'; did you mean 'hetrombopag'?"),
        ("placebo", "itp", "unknown drug 'placebo'; legal names: eltrombopag, hetrombopag"),
        ("../hetrombopag", "itp", "did you mean 'hetrombopag'?"),
        ("noise", "itp", "noise.toml: kind = 'noise': not 'drug'; legal names: eltrombopag, hetrombopag"),
        ("hetrombopag", "itpp", "unknown disease 'itpp'; did you mean 'itp'?"),
        ("hetrombopag", "lupus", "unknown disease 'lupus'; legal names: healthy, itp"),
        (7, "itp", "unknown drug 7"),
    ],
)
def test_unknown_drug_or_disease(drug, disease, message):
    with pytest.raises(InputError) as error:
        load_library(drug, disease)
    assert message in str(error.value)


def test_lists_of_drugs_and_diseases():
    assert (loading.drugs(), loading.diseases()) == (("eltrombopag", "hetrombopag"), ("healthy", "itp"))


def test_unknown_centre_and_bad_centre(folder):
    with pytest.raises(InputError, match="unknown centre 'alternative'; did you mean 'alternative_centre'"):
        load_centre("alternative")
    edit(folder, "alternative_centre.toml", "[receptor_ec50_nM]", "[receptor_ec5_nM]")
    with pytest.raises(InputError, match=r"alternative_centre.toml: unknown name 'receptor_ec5_nM'; did you mean"):
        load_centre(folder=folder)


def edit(folder, file, old, new):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


CL = '[clearance_l_per_h]\nvalue = 7.66\nunit = "L/h"\nstatus = "published"'
PAIR = """
[[correlations]]
between = ["clearance_l_per_h", "{}"]
value = {}
unit = "-"
status = "assumed"
source = "a test"
"""
BAD_FILES = [
    ("hetrombopag.toml", CL, CL.replace("7.66", "-7.66"), "clearance_l_per_h: value = -7.66: out of range"),
    ("hetrombopag.toml", CL, CL.replace("7.66", "nan"), "clearance_l_per_h: value = nan: out of range"),
    ("hetrombopag.toml", CL, CL.replace("7.66", "inf"), "clearance_l_per_h: value = inf: out of range"),
    ("hetrombopag.toml", CL, CL.replace("7.66", '"7.66"'), "clearance_l_per_h: value = '7.66': not a number"),
    ("hetrombopag.toml", CL, CL.replace("L/h", "mL/min"), "unit = 'mL/min': wrong unit; legal: 'L/h'"),
    ("hetrombopag.toml", CL, CL.replace("published", "publised"), "did you mean 'published'?"),
    ("hetrombopag.toml", CL, CL.replace('"published"', "1"), "status = 1: not legal; legal: published, secondary"),
    (
        "hetrombopag.toml",
        CL,
        CL.replace("unit", "units"),
        "clearance_l_per_h: unknown key 'units'; did you mean 'unit'?",
    ),
    ("hetrombopag.toml", CL, CL.replace("value = 7.66\n", ""), "clearance_l_per_h: missing key 'value'"),
    (
        "hetrombopag.toml",
        CL,
        CL.replace("nce_l", "nse_l"),
        "unknown key 'clearanse_l_per_h'; did you mean 'clearance_l",
    ),
    ("hetrombopag.toml", 'source = "CL/F of', 'source = ""\n#', "source = '': a published number needs the words"),
    ("hetrombopag.toml", 'kind = "drug"', 'kind = "drugs"', "kind = 'drugs': not 'drug'"),
    ("eltrombopag.toml", 'kind = "drug"', 'kind = "drug"\nfood = 1', "food = 1: not a table"),
    ("eltrombopag.toml", 'kind = "drug"', 'kind = "drug"\nclearance = 1', "eltrombopag.toml: unknown key 'clearance'"),
    ("eltrombopag.toml", 'kind = "drug"', 'kind = "drug"\n[food]\nmeal = 1', "food.meal = 1: not a table"),
    ("hetrombopag.toml", 'kind = "drug"', 'kind = "drug', "malformed TOML"),
    (
        "hetrombopag.toml",
        "[covariates.female_",
        "[covariates.femal_",
        "covariates: unknown key 'femal_clearance_ratio'",
    ),
    ("hetrombopag.toml", ".fed_absorption_ratio", ".fed_speed", "food.high_fat_breakfast: unknown key 'fed_speed'"),
    ("physiology_itp.toml", "[share_survival]\nvalue = 0.2", "[share_survival]\nvalue = 0.25", "must add to 1"),
    (
        "physiology_itp.toml",
        "[demography.weight_log_sd]",
        "[demography.weight_sd]",
        "demography: unknown key 'weight_sd'",
    ),
    ("physiology_itp.toml", "value = 39.0", "value = 63.0", "must be in increasing order"),
    ("noise.toml", "value = 0.085", "value = 1.085", "rescue_max_probability_per_week: value = 1.085: out of range"),
    ("noise.toml", "[residual_log_sd]", "[residual_sd]", "noise.toml: unknown key 'residual_sd'"),
    ("variability.toml", "value = 0.58", "value = -0.58", "clearance_l_per_h: value = -0.58: out of range"),
    ("variability.toml", "[receptor_ec50_nM]", "[dimer_hill]", "variability.toml: unknown key 'dimer_hill'"),
    ("variability.toml", "\n", PAIR.format("central_volume_l", 1.0), "kind = None: not 'variability'"),
    ("priors.toml", "log_sd = 0.10", "log_sd = -0.10", "priors.toml: clearance_l_per_h: log_sd = -0.1: out of range"),
    ("priors.toml", "[receptor_ec50_nM]", "[receptor_ec50]", "unknown parameter 'receptor_ec50'; did you mean"),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), BAD_FILES)
def test_bad_tables(folder, file, old, new, message):
    edit(folder, file, old, new)
    with pytest.raises(InputError) as error:
        load_library(file.removesuffix(".toml") if file.startswith("elt") else "hetrombopag", folder=folder)
    assert message in str(error.value)
    assert file in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (PAIR.format("central_volume_l", 1.0), "number 1: value = 1: out of range"),
        (PAIR.format("central_volum_l", 0.5), "number 1: unknown parameter 'central_volum_l'; did you mean"),
        (PAIR.format("clearance_l_per_h", 0.5), "legal: two different parameter names"),
        (
            PAIR.format("central_volume_l", 0.5) * 2,
            "number 2: between = ['clearance_l_per_h', 'central_volume_l']: given",
        ),
        (PAIR.format("central_volume_l", 0.5).replace("value", "valu"), "unknown key 'valu'; did you mean 'value'?"),
        (
            PAIR.format("central_volume_l", 0.9)
            + PAIR.format("receptor_ec50_nM", 0.9)
            + PAIR.format("receptor_ec50_nM", -0.9).replace("clearance_l_per_h", "central_volume_l"),
            "the matrix is not positive definite",
        ),
    ],
)
def test_bad_correlations(folder, rows, message):
    with open(folder / "variability.toml", "a") as file:
        file.write(rows)
    with pytest.raises(InputError) as error:
        load_library(folder=folder)
    assert message in str(error.value)


def test_correlations_enter_the_cholesky_factor(folder):
    with open(folder / "variability.toml", "a") as file:
        file.write(PAIR.format("central_volume_l", 0.5) + PAIR.format("receptor_ec50_nM", -0.25))
    factor = np.asarray(load_library(folder=folder).population().correlation_cholesky)
    assert np.allclose(factor, np.tril(factor))
    expected = np.eye(13)
    expected[0, 1] = expected[1, 0] = 0.5
    expected[0, 3] = expected[3, 0] = -0.25
    assert np.allclose(factor @ factor.T, expected, atol=1e-6)
    assert np.allclose(load_library().population().correlation_cholesky, np.eye(13))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\xff\x00PK", "is not text (UTF-8)"),
        (b"", "kind = None: not 'noise'"),
        (b"kind = 'noise'\n[residual_log_sd\n", "malformed TOML"),
        (None, "is a folder; a TOML file is expected"),
    ],
)
def test_unreadable_files(folder, content, message):
    path = folder / "noise.toml"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_library(folder=folder)
    assert message in str(error.value) and str(path) in str(error.value)


def test_read_toml_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"absent\.toml: no such file"):
        tables.read_toml(tmp_path / "absent.toml")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        tables.read_toml(tmp_path / "file" / "below.toml")
    with pytest.raises(InputError, match="is not a folder; legal: a folder of library tables"):
        load_library(folder=tmp_path / "file")


def test_a_folder_with_one_new_drug_is_enough(tmp_path):
    """Adding a drug is adding one file; the rest comes from the shipped library."""
    text = (tables.FOLDER / "hetrombopag.toml").read_text().replace("value = 27.0", "value = 5.0")
    (tmp_path / "newdrug.toml").write_text(text)
    new = load_library("newdrug", folder=tmp_path)
    assert new.value("receptor_ec50_nM") == 5
    assert new.value("max_stimulation") == load_library().value("max_stimulation")
    with pytest.raises(InputError, match="unknown drug 'newdrug'"):
        load_library("newdrug")


def test_every_shipped_file_is_read_by_some_library():
    kinds = {path.stem: tomllib.loads(path.read_text()).get("kind") for path in tables.FOLDER.glob("*.toml")}
    assert kinds.pop("schema") is None
    assert set(kinds.values()) == {"drug", "physiology", "noise", "variability", "priors", "centre"}


def test_no_number_of_the_model_in_the_loading_code():
    """Digits in these files are 0, 1, indices, shapes and names; a model's value would show here."""
    for module in ("parameters", "tables", "loading"):
        code = re.sub(r'""".*?"""|#.*', "", (tables.FOLDER.parent / f"{module}.py").read_text(), flags=re.S)
        assert not re.findall(r"(?<![\w.])\d+\.\d*[1-9]\d*(?![\w])", code), module
