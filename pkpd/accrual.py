"""How fast patients come into a trial."""

from __future__ import annotations

from pydantic import Field

from pkpd.validated import MAX_DAY, Table


class Accrual(Table):
    """Patients randomised a week on average, a Poisson process; the rate grows in proportion over ``ramp_weeks``.

    screen_failure_share: of the patients screened, who are not randomised; a ``[screening]`` computes it. endpoint_d:
    day of the endpoint where its outcome is stated; of simulated patients it is the last visit that the endpoint uses,
    as late as it may be.
    """

    patients_per_week: float = Field(gt=0, le=100_000)
    ramp_weeks: float = Field(default=0.0, ge=0, le=1000)
    screen_failure_share: float = Field(default=0.0, ge=0, lt=1)
    endpoint_d: int | None = Field(default=None, ge=1, le=MAX_DAY)
