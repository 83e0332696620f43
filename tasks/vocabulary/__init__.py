"""More tokens for a base: chosen, given rows, trained, proven. The public face of the package (`extend`: torch)."""

from tasks.vocabulary.document import SETTING, read_document
from tasks.vocabulary.reading import REPORT_FILE, TOKENS_FILE, extension_job, read_extended, vocabulary_key
from tasks.vocabulary.texts import check_settings, check_tokens
from tasks.vocabulary.values import ExtendedBase, ExtensionJob, NewToken, VocabularyReport

__all__ = [
    "REPORT_FILE",
    "SETTING",
    "TOKENS_FILE",
    "ExtendedBase",
    "ExtensionJob",
    "NewToken",
    "VocabularyReport",
    "check_settings",
    "check_tokens",
    "extension_job",
    "read_document",
    "read_extended",
    "vocabulary_key",
]
