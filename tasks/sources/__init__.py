"""Earlier results that methods go on from, learn from or compose: by run, registered name, folder or hub id.

Light: nothing here imports MLflow before a reference asks it. The public face of the package.
"""

from tasks.sources.find import Finder, Search
from tasks.sources.reference import Reference, check_sources, parse_reference

__all__ = ["Finder", "Reference", "Search", "check_sources", "parse_reference"]
