"""How quantities, parameters, arms and doses are called and coloured: the same in every figure and table."""

from __future__ import annotations

from collections.abc import Sequence

from pkpd.errors import InputError
from pkpd.tables import SD_SUFFIX, field_of

QUANTITIES = {
    "response_week_8": "response at week 8",
    "response_any": "response at least once",
    "response_75": "response at ≥ 75% of visits",
    "response_30_doubled": "≥ 30 and doubled, once",
    "rescue": "rescue therapy",
}
DEFINITIONS = {
    "response_week_8": "count of at least 50 ×10⁹/L at week 8 without earlier or present rescue",
    "response_any": "count of at least 50 ×10⁹/L at one visit or more in 8 weeks",
    "response_75": "count of at least 50 ×10⁹/L at 6 or more of the 8 visits",
    "response_30_doubled": "count of at least 30 ×10⁹/L and twice the baseline at one visit or more",
    "rescue": "rescue therapy within 8 weeks",
}
PATHWAYS = {"stat3": "pSTAT3", "stat5": "pSTAT5", "akt": "pAKT (PI3K)", "erk": "pERK1/2"}
FACTORS = {
    "proliferation": "proliferation (STAT3/STAT5)",
    "survival": "survival (PI3K-AKT)",
    "maturation": "maturation and yield (ERK1/2)",
}
# Okabe and Ito's colours, told apart by colour-blind readers too; placebo is grey, doses darken with the dose.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B58900", "#56B4E9")
PLACEBO_COLOUR = "#666666"
PRIOR_COLOUR = "#D6D6D6"
GREEK = {"sigma": "σ", "tau_o": "τ", "kappa": "κ", "phi": "φ", "eps": "ε", "omega": "ω"}
COUNT = "platelets (10⁹/L)"


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """A colour for each arm, by the order of the arms."""
    treated = [arm for arm in arms if "placebo" not in arm.lower()]
    colours = {arm: ARM_COLOURS[i % len(ARM_COLOURS)] for i, arm in enumerate(treated)}
    return {arm: colours.get(arm, PLACEBO_COLOUR) for arm in arms}


def dose_colours(doses_mg: Sequence[float]) -> list[str]:
    """A colour for each of the increasing doses, from light to dark."""
    import matplotlib

    shades = matplotlib.colormaps["YlGnBu"]
    n = max(len(doses_mg) - 1, 1)
    return [matplotlib.colors.to_hex(shades(0.36 + 0.6 * i / n)) for i in range(len(doses_mg))]


def symbol(name: str) -> str:
    """Short name of a parameter: its symbol, ``IIV`` and the symbol for an interindividual sd, else the name."""
    base = name.removesuffix(SD_SUFFIX)
    try:
        short = field_of(base).symbol
    except InputError:
        return name
    if short in ("", "kappa", "k_x"):  # one symbol for several parameters
        short = base
    short = GREEK.get(short, short)
    return f"IIV {short}" if name != base else short


def parameter(name: str) -> str:
    """Symbol and unit, for an axis."""
    from inference.store import unit

    text = unit(name)
    return symbol(name) if text in ("-", "log") else f"{symbol(name)} ({text.replace('1e9/L', '10⁹/L')})"


def meaning(name: str) -> str:
    """What a parameter is, in words; blank where the schema does not know."""
    base = name.removesuffix(SD_SUFFIX)
    try:
        words = field_of(base).description
    except InputError:
        return ""
    return f"sd over individuals, log scale: {words}" if name != base else words
