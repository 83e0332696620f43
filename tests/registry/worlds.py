"""A tiny base model, adapters made with PEFT itself, and an MLflow database in a folder of the test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from mlflow import MlflowClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.data.settings import DataSettings
from tasks.data.templates import Renderer
from tasks.data.values import Turn
from tasks.methods import Candidate
from tasks.methods.loading import load_candidate
from tasks.models import BaseModel, ModelSettings, resolve_base
from tasks.models.loading import load_tokenizer
from tasks.registry.values import Example, RegisteredVersion, RegisterRequest
from tasks.tracking import TrackingSettings

NEW_TOKENS = 12
PROMPT = "name[Aromi], food[Thai]"
PEFT_CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False},
    "qlora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False},
    "prompt_tuning": {"num_virtual_tokens": 6},
    "prefix_tuning": {"num_virtual_tokens": 6},
    "p_tuning": {"num_virtual_tokens": 6, "encoder_hidden_size": 32},
}
PEFT_CLASSES = {
    "lora": peft.LoraConfig,
    "qlora": peft.LoraConfig,
    "prompt_tuning": peft.PromptTuningConfig,
    "prefix_tuning": peft.PrefixTuningConfig,
    "p_tuning": peft.PromptEncoderConfig,
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4, "lora_alpha": 8},
    "qlora": {"kind": "qlora", "r": 4, "lora_alpha": 8},
    "prompt_tuning": {"kind": "prompt_tuning", "num_virtual_tokens": 6},
    "prefix_tuning": {"kind": "prefix_tuning", "num_virtual_tokens": 6},
    "p_tuning": {"kind": "p_tuning", "num_virtual_tokens": 6},
}


def make_base(folder: Path, chat_template: str | None = None, *, biased: bool = False) -> BaseModel:
    """A random two-layer Llama over bytes, whose generation_config asks for what must not happen (sampling)."""
    letters = {
        token: place for place, token in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    fast = Tokenizer(models.BPE(letters, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>")  # noqa: S106
    tokenizer.chat_template = chat_template
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=160,
        initializer_range=0.2,
        attention_bias=biased,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.update(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, bos_token_id=0, eos_token_id=1
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_base(ModelSettings(name_or_path=str(folder)))


def make_adapter(kind: str, base: BaseModel, folder: Path, seed: int = 0) -> Candidate:
    """A random adapter in PEFT's layout, as any PEFT user would have made it."""
    torch.manual_seed(seed)
    config = PEFT_CLASSES[kind](task_type="CAUSAL_LM", **PEFT_CONFIGS[kind])
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), config)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    saved = read_json(folder / "adapter_config.json") | {"base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(saved))
    return Candidate(label=kind, base=base, method=METHODS[kind], weights=folder, holds="adapter")


def make_merged(base: BaseModel, folder: Path) -> Candidate:
    """LoRA merged by PEFT into a plain model folder without a tokenizer."""
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **PEFT_CONFIGS["lora"])
    merged = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), config).merge_and_unload()
    merged.save_pretrained(folder)
    return Candidate(label="lora merged", base=base, method=METHODS["lora"], weights=folder, holds="model")


def make_full(base: BaseModel, folder: Path, seed: int) -> Candidate:
    """Fully tuned: the base with one layer moved, which is quicker than training."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    model.lm_head.weight.data += torch.randn_like(model.lm_head.weight) * 0.1
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base.path / name, folder / name)
    return Candidate(label=f"full seed {seed}", base=base, method=METHODS["full"], weights=folder, holds="model")


def direct_greedy(candidate: Candidate, data: DataSettings, prompt: str, new_tokens: int = NEW_TOKENS) -> str:
    """The text by the plainest means: one forward pass over everything per token, no `generate`, no cache."""
    if candidate.holds == "model":
        model: Any = AutoModelForCausalLM.from_pretrained(candidate.weights)
    elif candidate.method["kind"] == "qlora":
        model = load_candidate(candidate)
    else:
        base = AutoModelForCausalLM.from_pretrained(candidate.base.path)
        model = peft.PeftModel.from_pretrained(base, candidate.weights)
    return greedy(model, candidate.base, data, prompt, new_tokens)


def greedy(model: Any, base: BaseModel, data: DataSettings, prompt: str, new_tokens: int = NEW_TOKENS) -> str:
    """As above, of a model in memory."""
    tokenizer = load_tokenizer(base)
    renderer = Renderer(tokenizer, data)
    ids = renderer.prompt_ids([Turn(role="user", content=prompt)])
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < new_tokens:
            given = torch.tensor([ids + new])
            token = int(model.eval()(input_ids=given, attention_mask=torch.ones_like(given)).logits[0, -1].argmax())
            if token in renderer.end_token_ids:
                break
            new.append(token)
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


class World(NamedTuple):
    """An MLflow database and a finished run in it."""

    folder: Path
    tracking: TrackingSettings
    run_id: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking.uri, self.tracking.uri)

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def versions(self, name: str) -> list[Any]:
        return sorted(self.client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))


def make_world(folder: Path) -> World:
    folder.mkdir(parents=True, exist_ok=True)
    tracking = TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db")
    client = MlflowClient(tracking.uri, tracking.uri)
    experiment = client.create_experiment("e2e", artifact_location=(folder / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.set_terminated(run.info.run_id, "FINISHED")
    return World(folder, tracking, run.info.run_id)


def make_request(world: World, candidate: Candidate, name: str = "e2e", **changed: Any) -> RegisterRequest:
    """The request for a candidate whose evaluation saw what it really answers."""
    data = changed.pop("data", DataSettings(train="unused", use_chat_template=False))
    facts: dict[str, Any] = {
        "model_name": name,
        "alias": "challenger",
        "candidate": candidate,
        "label": candidate.label,
        "run_id": world.run_id,
        "metrics": {"loss": 1.25, "bleu": 31.5},
        "rows_digest": "a" * 64,
        "data_digest": "b" * 64,
        "fingerprint": "c" * 64,
        "code_commit": "d" * 40,
        "data": data,
        "max_new_tokens": NEW_TOKENS,
    }
    if "example" not in changed:
        facts["example"] = Example(prompt=PROMPT, answer=direct_greedy(candidate, data, PROMPT))
    return RegisterRequest(**{**facts, **changed})


def package_of(world: World, version: RegisteredVersion) -> Path:
    """The model folder of a version, as it lies in the artifact store."""
    stored = world.client.get_model_version(version.name, str(version.version))
    artifacts = world.client.get_run(stored.run_id).info.artifact_uri.removeprefix("file://")
    return Path(artifacts) / stored.source.rpartition("/")[2]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
