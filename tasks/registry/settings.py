"""Registration of the winner."""

from __future__ import annotations

from tasks.foundation.values import Settings


class RegistrySettings(Settings):
    """Section `registry`."""

    model: str | None = None
    """Registered model that gets a new version; without it nothing is registered."""
    metric: str | None = None
    """Metric that names the winner; when absent the first of `evaluation.metrics`."""
    alias: str = "challenger"
    """Alias that moves to the new version."""
