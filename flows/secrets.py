"""No password may reach Prefect: it stores the parameters of every flow run in its database, for all to read."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.foundation.errors import ConfigError
from tasks.tracking import redact


def refuse_secrets(overrides: Sequence[str]) -> None:
    """Refuse overrides that hold a user, a password or a token in a URI.

    Raises:
        ConfigError: one does.
    """
    for override in overrides:
        if redact(override) != override:
            raise ConfigError(
                "an override with a password would be stored in Prefect's database",
                where=override.partition("=")[0],
                fix="Leave it out of the URI and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                "or set the whole URI as MLFLOW_TRACKING_URI",
            )
