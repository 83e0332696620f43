"""The code inside a registered model: loads the packaged folders and answers prompts, greedily, one at a time.

It is copied into the package and runs where tuneline is not installed: it imports the standard library, mlflow, torch,
transformers and (for adapters) peft, and nothing of ours but what the package brings along in `code/`, for adapters
that PEFT alone cannot load. `serving.json` beside the weights holds every setting.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
import threading
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

NOW = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
DAY = date(2024, 7, 26)


class TunedModel(PythonModel):  # type: ignore[misc]
    """predict(prompts, params={"max_new_tokens": n}) -> one text per prompt."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        """MLflow's server asks from many threads, and PEFT puts other methods into the model while it generates."""

    def load_context(self, context: Any) -> None:
        """Verify every packaged file against `files.json`, then load tokenizer and model onto the best device."""
        package = Path(context.artifacts["package"])
        verify(package.parent.parent)
        self.settings: dict[str, Any] = json.loads((package / "serving.json").read_text(encoding="utf-8"))
        self.tokenizer = AutoTokenizer.from_pretrained(
            package / self.settings["tokenizer"], local_files_only=True, trust_remote_code=False
        )
        self.device = pick_device()
        self.model = load_model(package, self.settings, self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Answer each row of the columns `prompt` and (where given) `system`, or each text of a list.

        Raises:
            ValueError: max_new_tokens below 1, or a prompt that leaves no room for an answer.
        """
        limit = int((params or {}).get("max_new_tokens", self.settings["max_new_tokens"]))
        if limit < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {limit}")
        with self.turn:
            return [self.answer(prompt, system, limit) for prompt, system in asked(model_input)]

    def answer(self, prompt: str, system: str, max_new_tokens: int) -> str:
        """The most likely token each time, up to the trained end token; stripped."""
        ids = self.fitting(self.prompt_ids(prompt, system), max_new_tokens)
        ends = self.settings["end_token_ids"]
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        with torch.inference_mode():
            new = generate(self.model, torch.tensor([ids], device=self.device), config)
        length = next((place for place, token in enumerate(new) if token in ends), len(new))
        text = self.tokenizer.decode(new[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def prompt_ids(self, prompt: str, system: str = "") -> list[int]:
        """The ids that training saw in front of an answer."""
        before = self.settings["before"]
        text = self.chat_text(prompt, system) if before is None else plain_text(before, prompt, system)
        return [*self.settings["leading_ids"], *self.tokenizer([text], add_special_tokens=False)["input_ids"][0]]

    def chat_text(self, prompt: str, system: str) -> str:
        """By the tokenizer's chat template; one that prints today's date prints the day that training saw."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        template = NOW.sub(lambda found: repr(DAY.strftime(found[2])), self.tokenizer.get_chat_template())
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return str(text)

    def fitting(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """A prompt that leaves no room for the answer loses its left end, where training cut rows too."""
        room = self.settings["positions"] - max_new_tokens
        if len(ids) <= room:
            return ids
        if not self.settings["cut_prompts"] or room < 1:
            raise ValueError(
                f"a prompt of {len(ids)} tokens and {max_new_tokens} new ones exceed the model's "
                f"{self.settings['positions']} positions"
            )
        return ids[-room:]


def asked(model_input: Any) -> list[tuple[str, str]]:
    """(prompt, system) of every row of a data frame, or of a list of texts or rows.

    MLflow makes one row of {"prompt": ["a", "b"]}, with lists as values: they are as many rows.

    Raises:
        ValueError: a prompt is not a text, or there are not as many system messages as prompts.
    """
    rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
    pairs: list[tuple[str, str]] = []
    for row in rows:
        values = {"prompt": row} if isinstance(row, str) else row
        prompts, systems = listed(values["prompt"]), listed(values.get("system"))
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("every prompt must be a text")
        systems = systems if len(systems) > 1 else systems * len(prompts)
        pairs += zip(prompts, (text if isinstance(text, str) else "" for text in systems), strict=True)
    return pairs


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else as the only member of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def plain_text(before: str, prompt: str, system: str) -> str:
    """The plain template up to the answer; without `{system}` in it the system message leads the prompt."""
    if system and "{system}" not in before:
        prompt = f"{system}\n\n{prompt}"
    values = {"prompt": prompt, "system": system}
    return re.sub(r"\{(prompt|system)\}", lambda found: values[found[1]], before)


def generate(model: Any, ids: torch.Tensor, config: GenerationConfig) -> list[int]:
    """New ids for one prompt [1, tokens]; a soft prompt goes in front as embeddings, as in the evaluation."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # transformers fills unset options from the model's own configuration, so that one is replaced.
    model.generation_config = base.generation_config = config
    adapter = getattr(model, "active_peft_config", None)
    soft = model.get_prompt(1) if adapter is not None and adapter.is_prompt_learning else None
    if isinstance(soft, torch.Tensor):
        embedded = model.word_embeddings(ids)
        inputs = torch.cat((soft.to(embedded.dtype), embedded), dim=1)
        mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=ids.device)
        out = base.generate(inputs_embeds=inputs, attention_mask=mask, generation_config=config)
    else:
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        out = out[:, ids.shape[1] :]
    new: list[int] = out[0].tolist()
    return new


def verify(root: Path) -> None:
    """Compare the packaged files with `files.json`.

    Raises:
        RuntimeError: one is missing or differs: the package was damaged or changed after it was registered.
    """
    for name, expected in json.loads((root / "files.json").read_text(encoding="utf-8")).items():
        path = root / name
        if not path.is_file():
            raise RuntimeError(f"{name} is missing from the registered model")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise RuntimeError(f"{name} differs from the registered model: sha256 {found}, not {expected}")


def pick_device() -> str:
    """`cuda:<current>`, `mps` or `cpu`: where the evaluation would run on this machine."""
    if torch.cuda.is_available():
        return f"cuda:{torch.cuda.current_device()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_model(package: Path, settings: dict[str, Any], device: str) -> Any:
    """The whole model, or the base with its adapter, in eval mode."""
    base = settings["base"]
    on_cpu = device == "cpu"
    dtype = settings["dtype"]
    if dtype == "auto":
        dtype = "float32" if on_cpu else settings["stored_dtype"]
    attention = settings["attn_implementation"]
    options: dict[str, Any] = {"device_map": {"": device}} if not on_cpu or settings["quantization"] else {}
    if settings["quantization"]:
        options["quantization_config"] = quantization_config(settings["quantization"], on_cpu)
    source = {"revision": base["revision"]} if base["hub"] else {"local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        base["hub"] or package / base["folder"],
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa" if on_cpu and attention == "flash_attention_2" else attention,
        use_safetensors=True,
        trust_remote_code=False,
        **source,
        **options,
    )
    for module in model.modules():
        # bitsandbytes would repack 4-bit weights for some CPUs: other numbers, and wrong ones for odd shapes.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if settings["adapter"]:
        model = load_adapter(model, package, settings)
    return model.eval()


def load_adapter(base: Any, package: Path, settings: dict[str, Any]) -> Any:
    """The adapter on its base: by PEFT, or by the method whose code came with it."""
    loader = settings["loader"]
    if loader is None:
        from peft import PeftModel

        return PeftModel.from_pretrained(base, package / settings["adapter"], is_trainable=False)
    import_package(package / "code" / loader["package"])
    method = getattr(sys.modules[loader["module"]], loader["class"])
    return method.model_validate(loader["settings"]).load(base, package / settings["adapter"])


def import_package(folder: Path) -> None:
    """Import all of the code that came with the adapter, once; it is named by its digest, so it meets nothing else.

    All of it now: the folder may be gone when a function comes to import the rest. No bytecode is left in the package.
    """
    if folder.name in sys.modules:
        return
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder.parent))
    try:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            importlib.import_module(".".join(parts).removesuffix(".__init__"))
    finally:
        sys.path.remove(str(folder.parent))
        sys.dont_write_bytecode = before


def quantization_config(quantization: dict[str, Any], on_cpu: bool) -> BitsAndBytesConfig:
    """As while it was trained and evaluated; every choice explicit."""
    if quantization["bits"] == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization["quant_type"],
        bnb_4bit_use_double_quant=quantization["double_quant"],
        bnb_4bit_compute_dtype=torch.float32 if on_cpu else torch.bfloat16,
    )


mlflow.models.set_model(TunedModel())
