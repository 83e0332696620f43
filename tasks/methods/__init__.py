"""Fine-tuning methods, one file each. The public face of the package (`loading` needs torch)."""

from tasks.methods._base import Method
from tasks.methods._candidate import Candidate
from tasks.methods._continue import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tasks.methods._peft import PeftMethod
from tasks.methods._prompting import Prompting
from tasks.methods._quantized import base_quantization, refuse_quantization
from tasks.methods._registry import all_methods, method_code, parse_method
from tasks.methods._source import Holds, Source, adapter_files, without_references
from tasks.methods._values import INIT_FROM, Conditions, MethodInfo, Moment, StepLoss, Supplies, Window

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "INIT_FROM",
    "Candidate",
    "Conditions",
    "Holds",
    "Method",
    "MethodInfo",
    "Moment",
    "PeftMethod",
    "Prompting",
    "Source",
    "StepLoss",
    "Supplies",
    "Window",
    "adapter_files",
    "all_methods",
    "base_quantization",
    "method_code",
    "parse_method",
    "refuse_quantization",
    "without_references",
]
