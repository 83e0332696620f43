"""What each PEFT type can do: its usual rates, whether it merges, on which bases it trains; and what is refused.

Learning rates are (small, large): up to 5 M parameters, and from 100 M. The large ones are those of PEFT's own suite
(method_comparison/MetaMathQA on Llama-3.2-3B) where it departs from its default, those of the methods that have a kind
of their own, and LoRA's for the rest. The small ones are the best, or the next below it where a collapse is near, of
four to five rates tried once each over 20 to 30 steps on stories260k with E2E rows (one seed: an order of magnitude, no
more), those of the methods with a kind of their own, and LoRA's for the types that were not tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_TOKENS: Final = "virtual tokens stand in front of what the model reads and are no part of a weight"


class Traits(NamedTuple):
    """Of one PEFT type."""

    small: float
    """Learning rate up to 5 M parameters."""
    large: float
    """Learning rate from 100 M parameters."""
    unmergeable: str = ""
    """Why it has no merged form; empty where it has one."""
    quantized: bool = False
    """Whether it trains on a base in nf4, fp4 or int8."""
    checkpointing: bool = True
    """Whether gradient checkpointing works."""
    prompt: bool = False
    """Whether it puts virtual tokens in front of every sequence."""
    reads_base: bool = False
    """Whether a saved adapter is completed from the base's own weights when it is loaded."""
    whole_gradients: bool = False
    """Whether it reads the gradients after each step."""
    shared_weights: bool = False
    """Whether it was tried under engines that share the weights among ranks (zero3, fsdp2)."""


_LINEAR: Final = Traits(small=1e-2, large=2e-4)
_ON_ALL: Final = _LINEAR._replace(quantized=True)
_PROMPT: Final = Traits(small=0.3, large=3e-2, unmergeable=_TOKENS, quantized=True, prompt=True)
_PREFIX: Final = _PROMPT._replace(large=5e-3, checkpointing=False)

TRAITS: Final[Mapping[str, Traits]] = {
    "ADALORA": _ON_ALL._replace(small=3e-2, large=5e-4, whole_gradients=True),
    "ADAMSS": _LINEAR._replace(small=3e-2, reads_base=True, whole_gradients=True),
    "ADAPTION_PROMPT": Traits(
        small=0.1,
        large=5e-3,
        unmergeable="its prompts are attended to apart and behind a gate, which no weight of the base can do",
        quantized=True,
    ),
    "BEFT": Traits(small=0.1, large=1e-3, unmergeable="PEFT merges it into biases only, which most bases do not have"),
    "BOFT": _ON_ALL._replace(small=3e-2),
    "C3A": Traits(small=0.3, large=0.3),
    "CARTRIDGE": _PREFIX,
    "CPT": _PROMPT,
    "DEFT": _LINEAR,
    "DELORA": _LINEAR,
    "FOURIERFT": _LINEAR._replace(small=0.1),
    "FROD": Traits(small=3e-2, large=1e-3, reads_base=True),
    "GLORA": Traits(small=1e-2, large=5e-4),
    "GRALORA": _LINEAR,
    "HIRA": Traits(small=0.1, large=4.5e-3, quantized=True),
    "HRA": _LINEAR,
    "IA3": Traits(small=0.1, large=5e-3, quantized=True, shared_weights=True),
    "LILY": _LINEAR._replace(unmergeable="a router mixes its updates anew for each input"),
    "LN_TUNING": Traits(small=0.1, large=1e-3, quantized=True),
    "LOHA": _LINEAR,
    "LOKR": Traits(small=3e-2, large=3e-3),
    "LORA": _ON_ALL._replace(shared_weights=True),
    "MISS": _ON_ALL,
    "MULTITASK_PROMPT_TUNING": _PROMPT._replace(small=3e-2),
    "OFT": _ON_ALL,
    "OSF": Traits(small=5e-3, large=5e-5, reads_base=True),
    "PEANUT": _LINEAR,
    "POLY": _LINEAR,
    "PREFIX_TUNING": _PREFIX._replace(shared_weights=True),
    "PROMPT_TUNING": _PROMPT._replace(shared_weights=True),
    "PSOFT": _LINEAR._replace(reads_base=True),
    "PVERA": Traits(small=0.1, large=3e-3, quantized=True),
    "P_TUNING": _PROMPT._replace(small=3e-2, large=1e-3, shared_weights=True),
    "RANDLORA": _ON_ALL._replace(small=1e-3),
    "ROAD": Traits(small=3e-2, large=1e-3, quantized=True),
    "SHADOW": Traits(
        small=3e-2, large=1e-3, unmergeable="a second network, which reads the input itself, corrects every block"
    ),
    "SHIRA": Traits(small=3e-2, large=3e-4, quantized=True),
    "SUPERTUNING": _LINEAR,
    "TINYLORA": Traits(small=1e-2, large=1e-3),
    "TRAINABLE_TOKENS": Traits(small=0.2, large=0.2, quantized=True),
    "UNILORA": Traits(small=0.1, large=2e-3),
    "VBLORA": Traits(small=3e-2, large=5e-4),
    "VERA": Traits(small=0.1, large=1e-3, quantized=True),
    "WAVEFT": _LINEAR._replace(small=1e-3),
}

REFUSED: Final[Mapping[str, str]] = {
    "XLORA": "it mixes LoRA adapters that are trained already: its file names their folders, PEFT opens these again at "
    "every load (XLoraModel reads `adapters` as paths), so what is saved is no adapter without them",
}
"""PEFT type -> why it cannot run here; every other type that PEFT 0.21.2 registers is in `TRAITS`."""

REFUSED_FIELDS: Final[Mapping[str, str]] = {
    "prompt_tuning_init_state_dict_path": "it names a file of another machine, which PEFT would unpickle",
    "megatron_config": "it makes PEFT import the module that the file names in megatron_core",
    "arrow_config": "it routes between adapters that are trained already and lie elsewhere",
    "layer_replication": "it makes the base deeper, and what is saved is then no adapter of this base",
    "eva_config": "it needs batches before the adapter is made: take {kind: lora, init_lora_weights: eva}",
    "corda_config": "it needs batches before the adapter is made: take {kind: lora, init_lora_weights: corda}",
    "loftq_config": "it changes the base that the adapter belongs to: take {kind: lora, init_lora_weights: loftq}",
    "lora_ga_config": "it needs gradients before the adapter is made, which PEFT leaves to a script of one's own",
    "use_qalora": "it works on GPTQ bases only",
}
"""Field -> why a file that sets it is refused."""

REFUSED_VALUES: Final[Mapping[tuple[str, str], str]] = {
    ("init_lora_weights", "eva"): REFUSED_FIELDS["eva_config"],
    ("init_lora_weights", "corda"): REFUSED_FIELDS["corda_config"],
    ("init_lora_weights", "loftq"): REFUSED_FIELDS["loftq_config"],
    ("init_lora_weights", "lora_ga"): REFUSED_FIELDS["lora_ga_config"],
}
"""(field, value) -> why it is refused."""

UNMERGEABLE_FIELDS: Final[Mapping[str, str]] = {
    "modules_to_save": "modules_to_save trains copies of whole modules beside the adapted layers",
    "trainable_token_indices": "trainable_token_indices trains rows of the embedding beside the adapted layers",
    "target_parameters": "target_parameters adapts parameters that are no layer of their own",
    "alora_invocation_tokens": "it acts only behind its invocation tokens",
    "lora_bias": "lora_bias trains biases, and PEFT merges them into biases only, which most bases do not have",
    "kasa_config": "KaSA changes the base itself when it is loaded",
}
"""Field -> why an adapter that sets it is not merged."""


def is_set(config: Mapping[str, Any], field: str) -> bool:
    """Whether a field asks for something: an empty mapping does (its defaults), but for LoftQ's."""
    value = config.get(field)
    return value not in (None, False, []) and not (field == "loftq_config" and value == {})
