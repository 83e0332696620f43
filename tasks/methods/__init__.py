"""Fine-tuning methods, one file each. The public face of the package (`loading` needs torch)."""

from tasks.methods._base import Conditions, Holds, Method, MethodInfo, Quantization
from tasks.methods._candidate import Candidate
from tasks.methods._registry import all_methods, method_code, parse_method

__all__ = [
    "Candidate",
    "Conditions",
    "Holds",
    "Method",
    "MethodInfo",
    "Quantization",
    "all_methods",
    "method_code",
    "parse_method",
]
