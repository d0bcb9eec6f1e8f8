"""The data's life between its tiers: what moves, expires, is compared and exported, on a schedule."""

from typing import Final

from cv_platform.defs.lifecycle.audit import export_audit, export_audit_daily
from cv_platform.defs.lifecycle.expire import expire, expire_every_15_min
from cv_platform.defs.lifecycle.hot_to_warm import hot_to_warm, hot_to_warm_minutely
from cv_platform.defs.lifecycle.reconcile import reconcile, reconcile_daily
from cv_platform.defs.lifecycle.scrub import scrub_keys, scrub_keys_weekly
from cv_platform.defs.lifecycle.warm_to_cold import warm_to_cold, warm_to_cold_daily

jobs: Final = [hot_to_warm, warm_to_cold, expire, reconcile, export_audit, scrub_keys]
schedules: Final = [
    hot_to_warm_minutely,
    warm_to_cold_daily,
    expire_every_15_min,
    reconcile_daily,
    export_audit_daily,
    scrub_keys_weekly,
]
