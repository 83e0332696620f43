"""File types: how records come out of files, with the line where each one stands. The public face of the package."""

from tasks.data.readers._found import BadRow, Found, RawRecord, Reader
from tasks.data.readers._open import known_suffixes, open_data, suffix_of
from tasks.data.readers.choose import reader_for

__all__ = ["BadRow", "Found", "RawRecord", "Reader", "known_suffixes", "open_data", "reader_for", "suffix_of"]
