"""What an embedded broker can be told, beside its ports and its folder."""

from __future__ import annotations

from dataclasses import dataclass, field

VERSION = "0.3.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The defaults are those of Memphis 0.3.0 with its compose file."""

    token: str = field(repr=False)
    root_password: str = field(repr=False)
    jwt_expires_in_s: float = 900.0
    refresh_expires_in_s: float = 172_800.0
    ping_interval_ms: int = 60_000
    ping_grace_ms: int = 5_000
    sweep_interval_s: float = 30.0
    """How often silent connections are looked for; also the prune of old records."""
    overview_wait_s: float = 3.0
    """How long getStationOverviewData waits for messages of a station that has none."""
    poison_retention_s: float = 3 * 3600.0
    system_log_retention_s: float = 3 * 86_400.0
    sandbox: bool = False
    """SANDBOX_ENV: only root may remove and edit."""
