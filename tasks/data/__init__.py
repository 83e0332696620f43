"""Data: rows from any source, checked and split; their tokens. The public face of the package."""

from tasks.data.peek import Peek, peek
from tasks.data.settings import Columns, DataSettings, DataSource
from tasks.data.values import DataReport, EvalRow, PreparedData, Row, TokenizedData, TokenReport, Turn

__all__ = [
    "Columns",
    "DataReport",
    "DataSettings",
    "DataSource",
    "EvalRow",
    "Peek",
    "PreparedData",
    "Row",
    "TokenReport",
    "TokenizedData",
    "Turn",
    "peek",
]
