"""What `tuneline doctor` looks at: this machine, its libraries, its servers. The public face of the package."""

from tasks.health.check import Check
from tasks.health.checks import checks

__all__ = ["Check", "checks"]
