"""Fine-tuning methods, one file each. The public face of the package."""

from tasks.methods._base import Conditions, Holds, Method, MethodInfo, Quantization
from tasks.methods._candidate import Candidate

__all__ = ["Candidate", "Conditions", "Holds", "Method", "MethodInfo", "Quantization"]
