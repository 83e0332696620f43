"""The base model: found, checked, digested, loaded. The public face of the package (`loading` needs torch)."""

from tasks.models.facts import stored_dtype
from tasks.models.hub import fetch
from tasks.models.resolve import TOKENIZER_FILES, base_files, companion_files, resolve_base
from tasks.models.settings import ModelSettings
from tasks.models.values import BaseModel, BaseModelFacts
from tasks.models.weights import FLOAT_DTYPES, StoredTensor, read_header, weight_files

__all__ = [
    "FLOAT_DTYPES",
    "TOKENIZER_FILES",
    "BaseModel",
    "BaseModelFacts",
    "ModelSettings",
    "StoredTensor",
    "base_files",
    "companion_files",
    "fetch",
    "read_header",
    "resolve_base",
    "stored_dtype",
    "weight_files",
]
