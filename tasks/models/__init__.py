"""The base model: found, checked, digested, loaded. The public face of the package (`loading` needs torch)."""

from tasks.models.facts import embedding_name, head_names, stored_dtype
from tasks.models.hub import fetch
from tasks.models.resolve import TOKENIZER_FILES, base_files, companion_files, resolve_base
from tasks.models.settings import LearnedTokens, ModelSettings, VocabularyExtension
from tasks.models.values import BaseModel, BaseModelFacts, Quantization
from tasks.models.weights import FLOAT_DTYPES, StoredTensor, read_header, weight_files

__all__ = [
    "FLOAT_DTYPES",
    "TOKENIZER_FILES",
    "BaseModel",
    "BaseModelFacts",
    "LearnedTokens",
    "ModelSettings",
    "Quantization",
    "StoredTensor",
    "VocabularyExtension",
    "base_files",
    "companion_files",
    "embedding_name",
    "fetch",
    "head_names",
    "read_header",
    "resolve_base",
    "stored_dtype",
    "weight_files",
]
