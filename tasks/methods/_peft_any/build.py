"""From what a foreign file says to an adapter on our base: its sizes, its tokens and its targets are made ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.foundation.errors import ConfigError
from tasks.methods._adaption import compute_in_base_dtype
from tasks.methods._continue import read_adapter, read_config, refuse_other_meaning
from tasks.methods._peft import jsonable, neutral_config
from tasks.methods._peft_any.going_on import becomes, refuse_other_function, start
from tasks.methods._peft_any.save import SavedPeft
from tasks.methods._peft_any.types import TRAITS
from tasks.methods._source import Source
from tasks.methods._targets import ALL_LINEAR, linear_layers, matches, short_names
from tasks.methods._values import INIT_FROM, NOTHING, Supplies

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_TEXT_TYPES = ("CARTRIDGE", "PREFIX_TUNING")
_FINISHED = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
"""Types of which virtual tokens alone are saved, whatever encoder made them."""
_BLOCKS = ("LN_TUNING", "SHADOW", "TRAINABLE_TOKENS", "ADAPTION_PROMPT")
"""Types whose targets are no linear layers."""


class BuiltPeft(SavedPeft):
    """Builds the adapter. Nothing that the file names is opened; the tokenizer is the base's own."""

    tokens: tuple[str, ...] | None = None
    """Tokens to train, as text (TRAINABLE_TOKENS, and LORA's trainable_token_indices): indices in a file belong to
    another tokenizer."""
    text: str | None = None
    """Words to start from, repeated as far as needed: the context of CPT, the cache of CARTRIDGE and of PREFIX_TUNING
    without projection."""

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        source = supplies.sources.get(INIT_FROM)
        if source is not None and source.holds == "adapter":
            self._refuse_source(read_config(source))
        with told_plainly(f"methods[{self.label}].config"):
            super().check_modules(skeleton, supplies)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """Freeze the base and add the adapter in float32; what PEFT says against it is said as a setting's error."""
        if self.peft_type == "SHADOW":
            refuse_16_bit(model, f"methods[{self.label}]")
        with told_plainly(f"methods[{self.label}].config"), without_extension():
            attached = super().attach(model, supplies)
            if self.text is not None and self.peft_type in _TEXT_TYPES:
                self._fill_cache(attached, self.text)
        answer_for_one_task(attached, self.peft_type)
        compute_in_base_dtype(attached)
        if self.peft_type == "LN_TUNING":
            give_back_in_own_dtype(attached)
        return attached

    def start_from(self, model: nn.Module, source: Source) -> None:
        if self.peft_type in _FINISHED:
            super().start_from(model, source)
            return
        saved = read_adapter(source)
        self._refuse_source(saved.config)
        refuse_other_meaning(self, neutral_config(model), saved.config)
        start(self, model, saved)

    def rehearse_start(self, skeleton: nn.Module, supplies: Supplies) -> None:
        """By what the settings say: some types compute with the base's numbers when they attach, and here are none."""
        if self.peft_type in _FINISHED:
            if self.text is None:
                super().rehearse_start(skeleton, supplies)
            return
        own = self.peft_config(skeleton).to_dict()
        said = {name: jsonable(value) for name, value in own.items() if value is not None}
        refuse_other_function(self, said, read_config(supplies.sources[INIT_FROM]))

    def _refuse_source(self, saved: Mapping[str, Any]) -> None:
        if other := becomes(self.peft_type, saved):
            what = f"{self.peft_type} is saved as what it has become for one task, {saved.get('peft_type')}"
            raise ConfigError(what, where=f"methods[{self.label}].{INIT_FROM}", fix=f"Go on with {other}")

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        with without_extension():
            loaded = super().load(base, folder)
        compute_in_base_dtype(loaded)
        return loaded

    def merge_skeleton(self, base: Path) -> nn.Module:
        """Some types complete themselves from the base's own weights, so these must be there."""
        if not TRAITS[self.peft_type].reads_base:
            return super().merge_skeleton(base)
        import torch
        from transformers import AutoModelForCausalLM

        whole: nn.Module = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        return whole

    def peft_config(self, model: nn.Module) -> PeftConfig:
        """PEFT's configuration with our base's sizes, ids of its own tokenizer, and targets that it has."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        where = f"methods[{self.label}].config"
        given = {name: value for name, value in self.config.items() if name != "peft_type"}
        check_targets(model, self.peft_type, given, where)
        given |= self._ours(model)
        return PEFT_TYPE_TO_CONFIG_MAPPING[self.peft_type](task_type="CAUSAL_LM", **given)

    def _ours(self, model: nn.Module) -> dict[str, Any]:
        """Fields that belong to the base."""
        kind, config = self.peft_type, self.config
        if kind == "ADALORA":
            steps = config.get("total_step") or 10  # the real number comes with the first step
            return {"total_step": steps, "tinit": 0, "tfinal": 0}
        if kind == "ADAPTION_PROMPT":
            depth = int(model.config.num_hidden_layers)
            return {"adapter_layers": min(config.get("adapter_layers") or depth, depth)}
        if kind == "PROMPT_TUNING" and str(config.get("prompt_tuning_init")) == "TEXT":
            return {"tokenizer_name_or_path": str(model.name_or_path), "tokenizer_kwargs": {"local_files_only": True}}
        if kind in ("MULTITASK_PROMPT_TUNING", "POLY"):
            return {"num_tasks" if kind != "POLY" else "n_tasks": 1}
        return self._of_tokenizer(model)

    def _of_tokenizer(self, model: nn.Module) -> dict[str, Any]:
        if self.text is not None and self.peft_type == "CPT":
            ids = _tokenizer(model)(self.text)["input_ids"]
            self._refuse_long(len(ids), int(getattr(model.config, "max_position_embeddings", 0) or 0))
            return {"cpt_token_ids": ids, "cpt_mask": None, "cpt_tokens_type_mask": None}
        if self.tokens is None:
            return {}
        name = "token_indices" if self.peft_type == "TRAINABLE_TOKENS" else "trainable_token_indices"
        return {name: [self._token_id(model, token) for token in self.tokens]}

    def _refuse_long(self, tokens: int, context: int) -> None:
        if 0 < context <= tokens:
            raise ConfigError(
                f"text: {tokens} tokens leave no room for a row in the model's context of {context}",
                where=f"methods[{self.label}].text",
                fix="Shorten it",
            )

    def _token_id(self, model: nn.Module, token: str) -> int:
        tokenizer = _tokenizer(model)
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or (ids[0] == tokenizer.unk_token_id and token != tokenizer.unk_token):
            raise ConfigError(
                f"tokens: {token!r} is no single token of this base's tokenizer",
                where=f"methods[{self.label}].tokens",
                fix="Name tokens that it has, or add them with model.extend_vocabulary",
            )
        return int(ids[0])

    def _fill_cache(self, model: nn.Module, text: str) -> None:
        """Start from the keys and values that the base computes for a text (Cartridges, 2506.06266)."""
        from peft.tuners.cartridge.utils import initialize_kv_prefix_from_text

        tokenizer, tokens = _tokenizer(model.get_base_model()), int(self.config["num_virtual_tokens"])
        length = max(len(tokenizer(text)["input_ids"]), 1)
        words = " ".join([text] * -(-tokens // length))
        initialize_kv_prefix_from_text(model, tokenizer, text=words, use_chat_template=False, max_length=tokens)


def _tokenizer(model: nn.Module) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True, trust_remote_code=False)


def check_targets(model: nn.Module, kind: str, config: Mapping[str, Any], where: str) -> None:
    """Refuse names that match nothing, and any that would part tied embeddings.

    Raises:
        ConfigError: with the names that there are. PEFT itself is silent about one name of several.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    named: set[str] = set()
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        value = config.get(field) or ()
        if value == ALL_LINEAR:
            continue
        is_regex = isinstance(value, str) and kind != "ADAPTION_PROMPT"
        for pattern in [value] if isinstance(value, str) else value:
            found = {name for name in modules if _matches(name, str(pattern), is_regex, where)}
            if not found:
                known = modules if kind in _BLOCKS or field == "modules_to_save" else linear_layers(model)
                raise ConfigError(
                    f"{field}: {pattern!r} matches nothing in this model",
                    where=where,
                    allowed=f"{ALL_LINEAR}, or some of {', '.join(short_names(known))}",
                    fix="Name modules that this model has",
                )
            named |= found if field != "exclude_modules" else set()
    _refuse_tied(model, kind, {name: modules[name] for name in named}, where)


def _matches(name: str, pattern: str, is_regex: bool, where: str) -> bool:
    try:
        return matches(name, pattern, is_regex)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}", where=where, fix="Correct it") from error


def _refuse_tied(model: nn.Module, kind: str, named: Mapping[str, nn.Module], where: str) -> None:
    """TRAINABLE_TOKENS keeps input and output rows the same; everything else would part them."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if kind == "TRAINABLE_TOKENS" or ends[1] is None or ends[0].weight is not ends[1].weight:
        return
    for name, module in named.items():
        if module in ends:
            raise ConfigError(
                f"{name} shares its weight with the other embedding (tied), an adapter would part them",
                where=where,
                fix="Leave it out, or take TRAINABLE_TOKENS",
            )


def refuse_16_bit(model: nn.Module, where: str) -> None:
    """Raise ConfigError where the base computes in 16 bits: SHADOW's second network trains in float32 beside it."""
    import torch

    if any(part.is_floating_point() and part.dtype != torch.float32 for part in model.parameters()):
        raise ConfigError(
            "PEFT's SHADOW hands states between its network in float32 and the base without a cast",
            where=where,
            fix="Set model.dtype: float32",
        )


def give_back_in_own_dtype(model: nn.Module) -> None:
    """Norms that train in float32 hand on what the 16-bit layer behind them reads."""
    for module in model.modules():
        if hasattr(module, "ln_tuning_layers"):
            module.register_forward_hook(lambda _, given, output: output.to(given[0].dtype))


def answer_for_one_task(model: nn.Module, kind: str) -> None:
    """Types that ask for a task with every input get task 0: all rows are one task here."""
    import torch

    if kind == "POLY":

        def with_task(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            if kwargs.get("task_ids") is None:
                rows = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
                kwargs = kwargs | {"task_ids": torch.zeros(len(rows), dtype=torch.long, device=rows.device)}
            return args, kwargs

        model.base_model.register_forward_pre_hook(with_task, with_kwargs=True)
    elif kind == "MULTITASK_PROMPT_TUNING":

        def with_task_id(module: Any, args: Any) -> Any:
            indices, tasks = args
            return indices, indices.new_zeros(len(indices)) if tasks is None else tasks

        model.prompt_encoder["default"].register_forward_pre_hook(with_task_id)


@contextmanager
def told_plainly(where: str) -> Iterator[None]:
    """What PEFT raises while it builds an adapter is a wrong setting, and says so in one line."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AssertionError, NotImplementedError, ImportError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"PEFT refuses it: {said[:400]}", where=where, fix="Correct the file, or write `config` here"
        ) from error


@contextmanager
def without_extension() -> Iterator[None]:
    """BOFT would compile a CUDA extension for each of its layers, and go on without where it cannot."""
    from peft.tuners.boft import layer

    kept = layer.get_fbd_cuda
    layer.get_fbd_cuda = lambda: None
    try:
        yield
    finally:
        layer.get_fbd_cuda = kept
