"""What a trial may change at a look: the arms that go on, or how many patients it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from pkpd.errors import InputError
from pkpd.validated import Table

if TYPE_CHECKING:
    from pkpd.analysis import Analysis
    from pkpd.interims import Interims


class DropLosers(Table):
    """At look ``at_look`` (from 1), after its test, the ``keep`` best active arms go on and the others end.

    Best by the response rate among the patients of that look (by the test statistic, where the analysis needs each
    patient's outcome); of equal arms the earlier is kept. Arms that the look's test or futility ended are out of the
    choice. A dropped arm has no further patients, and its comparison ends without rejection. With ``[accrual]`` those
    who come after the day of the look go to the arms that are left, at the rate of the whole trial.
    """

    at_look: int = Field(ge=1, le=49)
    keep: int = Field(ge=1, le=100)


class Reestimate(Table):
    """More patients where the look before the last is promising, after Mehta and Pocock (2011).

    Where the conditional power (at the effect seen) of the last look is below ``conditional_power`` and promising (see
    ``inference.whatif.adaptive``), both arms grow by the smallest of ``steps`` equal steps up to ``max_factor`` times
    their n that brings it there, or by all of them.
    """

    at_look: int = Field(ge=1, le=49)
    max_factor: float = Field(gt=1, le=10)
    conditional_power: float = Field(gt=0, lt=1)
    steps: int = Field(default=10, ge=1, le=100)

    @property
    def factors(self) -> tuple[float, ...]:
        """Sizes that the trial may grow to, as multiples of the planned one."""
        return tuple(1 + (self.max_factor - 1) * step / self.steps for step in range(1, self.steps + 1))


def check_adaptation(interims: Interims, analysis: Analysis, sizes: Mapping[str, int]) -> None:
    """InputError where an adaptation does not go with the looks, the analysis or the arms."""
    looks, active = len(interims.looks), len(sizes) - 1
    drop, grow = interims.drop_losers, interims.reestimate
    if drop is not None:
        if drop.at_look >= looks:
            raise InputError(
                f"interims.drop_losers.at_look = {drop.at_look}: a look before the last of {looks}; "
                f"legal: 1 to {looks - 1}"
            )
        if active < 2:
            raise InputError("interims.drop_losers: one active arm, and none to drop; legal: two or more")
        if drop.keep >= active:
            raise InputError(
                f"interims.drop_losers.keep = {drop.keep} of {active} active arms drops none; legal: 1 to {active - 1}"
            )
        if analysis.multiplicity not in ("bonferroni", "closed-dunnett", "closed-simes"):
            raise InputError(
                f"interims.drop_losers: multiplicity = {analysis.multiplicity!r} does not pay for the choice; "
                "legal: 'bonferroni', 'closed-dunnett' or 'closed-simes', over all arms that start"
            )
    if grow is not None:
        if grow.at_look != looks - 1:
            raise InputError(
                f"interims.reestimate.at_look = {grow.at_look}: at the look before the last only; legal: {looks - 1}"
            )
        if analysis.multiplicity.startswith("closed-"):
            raise InputError(
                f"interims.reestimate: multiplicity = {analysis.multiplicity!r} combines stages of the planned sizes; "
                "legal: 'none'"
            )
        if active != 1:
            raise InputError(f"interims.reestimate: {active} active arms; legal: one, and the control")
