"""The code inside a registered model: loads the packaged folders and answers prompts, greedily, one at a time.

It is copied into the package and runs where tuneline is not installed: it imports the standard library, mlflow, torch,
transformers and (for adapters) peft, and nothing of ours. `serving.json` beside the weights holds every setting.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.pyfunc import PythonModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig


class TunedModel(PythonModel):
    """predict(prompts, params={"max_new_tokens": n}) -> one text per prompt."""

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

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Answer each prompt of a column `prompt`, or of a list of texts."""
        limit = int((params or {}).get("max_new_tokens", self.settings["max_new_tokens"]))
        if limit < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {limit}")
        return [self.answer(prompt, limit) for prompt in prompts_of(model_input)]

    def answer(self, prompt: str, max_new_tokens: int) -> str:
        """The greedy continuation up to the trained end token, stripped."""
        ids = torch.tensor([self.prompt_ids(prompt)], device=self.device)
        ends = self.settings["end_token_ids"]
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        with torch.inference_mode():
            out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        text: str = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text.strip()

    def prompt_ids(self, prompt: str) -> list[int]:
        """The ids that training saw in front of an answer."""
        before = self.settings["before"]
        if before is None:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
        else:
            values = {"prompt": prompt, "system": ""}
            text = re.sub(r"\{(prompt|system)\}", lambda found: values[found[1]], before)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*self.settings["leading_ids"], *ids]


def prompts_of(model_input: Any) -> list[str]:
    """The prompts of a data frame with a column `prompt`, of a mapping with that key, or of a list of texts."""
    if hasattr(model_input, "columns") or isinstance(model_input, dict):
        return [str(prompt) for prompt in model_input["prompt"]]
    return [str(prompt) for prompt in model_input]


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
    options: dict[str, Any] = {"device_map": {"": device}} if not on_cpu or settings["quantization"] else {}
    if settings["quantization"]:
        options["quantization_config"] = quantization_config(settings["quantization"], on_cpu)
    source = {"revision": base["revision"]} if base["hub"] else {"local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        base["hub"] or package / base["folder"],
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa" if on_cpu else settings["attn_implementation"],
        use_safetensors=True,
        trust_remote_code=False,
        **source,
        **options,
    )
    if settings["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, package / settings["adapter"], is_trainable=False)
    return model.eval()


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
