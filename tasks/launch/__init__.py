"""Starting, watching and ending processes. The public face of the package."""

from tasks.launch.launchers import Launcher, StallSettings, all_launchers, parse_launcher
from tasks.launch.layout import Layout
from tasks.launch.protocol import Gang, GangJob

__all__ = ["Gang", "GangJob", "Launcher", "Layout", "StallSettings", "all_launchers", "parse_launcher"]
