"""The record of a run. Steps write to journals; the shipper brings them to MLflow. The public face of the package.

Light: nothing here imports MLflow. The sending side is `tasks.tracking.shipper`.
"""

from tasks.tracking.owner import hold, inherited, owned_here, reconcile, release
from tasks.tracking.pages import experiment_page, run_page, version_page
from tasks.tracking.reachable import check_reachable
from tasks.tracking.redaction import redact
from tasks.tracking.run import Run, create_run
from tasks.tracking.settings import TrackingSettings
from tasks.tracking.uri import tracking_uri
from tasks.tracking.values import MetricPoint, RunRef, RunStatus

__all__ = [
    "MetricPoint",
    "Run",
    "RunRef",
    "RunStatus",
    "TrackingSettings",
    "check_reachable",
    "create_run",
    "experiment_page",
    "hold",
    "inherited",
    "owned_here",
    "reconcile",
    "redact",
    "release",
    "run_page",
    "tracking_uri",
    "version_page",
]
