"""What tuneline is measured against: a fine-tuning script as a good engineer writes it in an afternoon.

transformers.Trainer + PEFT + MLflow, one process per method: train, save, merge, answer the evaluation rows, log,
register. It knows nothing of tuneline, and is neither tuned nor held back.

    python benchmarks/plain_script.py --method lora --model MODEL --data FOLDER --output OUT --steps 300
    torchrun --nproc-per-node 2 benchmarks/plain_script.py …

`--data` is a folder with train.csv and eval.csv, columns `prompt` and `completion`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import sacrebleu
import torch
from datasets import Dataset, load_dataset
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

FIRST = os.environ.get("RANK", "0") == "0"
"""Of several ranks under torchrun, the one that records and writes."""

METHODS = ("full", "lora", "qlora", "ia3", "prefix_tuning", "prompt_tuning")
MERGEABLE = ("lora", "qlora", "ia3")


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Notes when each optimiser step ended: seconds since 1970, one number per step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self.ends.append(time.time())

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if FIRST:
            self.path.write_text(json.dumps(self.ends), encoding="utf-8")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune a causal language model with one method.")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and eval.csv")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-steps", type=int, default=100)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output, if any")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--max-seq-length", type=int, default=384)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-to", choices=("mlflow", "none"), default="mlflow")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db")
    parser.add_argument("--register", default="", help="name of the registered model; nothing is registered without it")
    return parser.parse_args(arguments)


def tokenize(row: dict[str, str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[int]]:
    """Prompt, newline, completion, end token; the loss counts the completion only."""
    prompt = tokenizer(row["prompt"] + "\n")["input_ids"]
    completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    input_ids = (prompt + completion)[:max_length]
    labels = ([-100] * len(prompt) + completion)[:max_length]
    return {"input_ids": input_ids, "labels": labels, "attention_mask": [1] * len(input_ids)}


def load_rows(folder: Path) -> tuple[Dataset, Dataset]:
    files = {"train": str(folder / "train.csv"), "eval": str(folder / "eval.csv")}
    rows = load_dataset("csv", data_files=files)
    return rows["train"], rows["eval"]


def load_model(name: str, method: str) -> PreTrainedModel:
    if method != "qlora":
        return AutoModelForCausalLM.from_pretrained(name)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(name, quantization_config=quantization)
    for module in model.modules():  # the packed CPU kernel fails on layers whose sides are no multiples of 32
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def peft_config(method: str) -> PeftConfig:
    if method in ("lora", "qlora"):
        return LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear")
    if method == "ia3":
        return IA3Config(task_type="CAUSAL_LM")
    if method == "prefix_tuning":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20, prefix_projection=True)
    return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)


def build_trainer(args: argparse.Namespace, model: Any, tokenizer: Any, train: Dataset, evaluation: Dataset) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(args.output),
        run_name=args.method,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=16,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        logging_steps=1,
        save_steps=args.save_steps,
        save_total_limit=2,
        seed=args.seed,
        report_to=args.report_to,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        callbacks=[StepClock(args.output / "step_ends.json")],
    )


def train(args: argparse.Namespace, trainer: Trainer) -> None:
    """Train, from the last checkpoint where asked, and save the adapter (or the whole model)."""
    checkpoint = get_last_checkpoint(str(args.output)) if args.resume and args.output.is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(args.output / "weights"))


def merge(args: argparse.Namespace, model: Any, tokenizer: Any) -> Any:
    """The model that answers: merged where the method can be, and then saved as a model of its own."""
    if args.method not in MERGEABLE:
        return model
    if args.method == "qlora":  # merge into the float base, not into the quantised one
        model = PeftModel.from_pretrained(load_model(args.model, "lora"), args.output / "weights")
    merged = model.merge_and_unload()
    merged.save_pretrained(args.output / "merged")
    tokenizer.save_pretrained(args.output / "merged")
    return merged


def answer(args: argparse.Namespace, model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Greedy answers, sixteen rows at a time."""
    model.eval()
    model.config.use_cache = True
    tokenizer.padding_side = "left"
    answers = []
    for start in range(0, len(prompts), 16):
        texts = [prompt + "\n" for prompt in prompts[start : start + 16]]
        batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
        length, pad = args.max_new_tokens, tokenizer.pad_token_id
        output = model.generate(**batch, max_new_tokens=length, do_sample=False, pad_token_id=pad)
        answers += tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def evaluate(args: argparse.Namespace, trainer: Trainer, model: Any, tokenizer: Any, rows: Dataset) -> dict[str, float]:
    metrics = {"loss": trainer.evaluate()["eval_loss"]}
    if not FIRST:
        return metrics
    answers = answer(args, merge(args, model, tokenizer), tokenizer, list(rows["prompt"]))
    metrics["bleu"] = sacrebleu.corpus_bleu(answers, [list(rows["completion"])]).score
    lines = [json.dumps({"prediction": text}, ensure_ascii=False) + "\n" for text in answers]
    (args.output / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    return metrics


def register(args: argparse.Namespace, tokenizer: Any) -> None:
    """A version of the registered model: the merged or whole model, otherwise base + adapter."""
    folder = args.output / ("merged" if args.method in MERGEABLE else "weights")
    if (folder / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(load_model(args.model, "lora"), folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
    mlflow.transformers.log_model(
        {"model": model, "tokenizer": tokenizer},
        name="model",
        task="text-generation",
        registered_model_name=args.register,
        pip_requirements=["torch", "transformers", "peft"],
    )


def record(args: argparse.Namespace, tokenizer: Any, metrics: dict[str, float]) -> None:
    mlflow.log_metrics({f"eval/{name}": value for name, value in metrics.items()})
    mlflow.log_artifact(str(args.output / "predictions.jsonl"))
    if args.register:
        register(args, tokenizer)
    print(json.dumps(metrics))


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    set_seed(args.seed)
    mlflow.set_tracking_uri(args.tracking_uri)
    if FIRST:
        mlflow.set_experiment("plain")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_model(args.model, args.method)
    if args.method != "full":
        model = get_peft_model(model, peft_config(args.method))
    train_rows, eval_rows = load_rows(args.data)
    tokens = [
        rows.map(tokenize, fn_kwargs={"tokenizer": tokenizer, "max_length": args.max_seq_length})
        for rows in (train_rows, eval_rows)
    ]
    with mlflow.start_run(run_name=args.method) if FIRST else nullcontext():
        trainer = build_trainer(args, model, tokenizer, *tokens)
        train(args, trainer)
        metrics = evaluate(args, trainer, model, tokenizer, eval_rows)
        if FIRST:
            record(args, tokenizer, metrics)


if __name__ == "__main__":
    main()
