"""Row formats, one file each, discovered. The public face of the package."""

from tasks.data.formats._base import Content, Format, Record, RowError
from tasks.data.formats._recognise import Recognised, all_formats, recognise

__all__ = ["Content", "Format", "Recognised", "Record", "RowError", "all_formats", "recognise"]
