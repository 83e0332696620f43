"""Where ranks run: one public file per launcher, discovered. The public face of the package."""

from tasks.launch.launchers._base import Launcher, StallSettings
from tasks.launch.launchers._registry import all_launchers, parse_launcher

__all__ = ["Launcher", "StallSettings", "all_launchers", "parse_launcher"]
