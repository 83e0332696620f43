"""Starting, watching and ending processes. The public face of the package."""

from tasks.launch.protocol import Gang, GangJob, Launcher
from tasks.launch.settings import DistributedSettings

__all__ = ["DistributedSettings", "Gang", "GangJob", "Launcher"]
