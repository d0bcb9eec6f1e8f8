"""How old an asset may get before the UI says so: footage comes every day, so what is made of it does too."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import dagster as dg

# A day, and what a night's backlog may take on top of it.
DAILY: Final = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50))
