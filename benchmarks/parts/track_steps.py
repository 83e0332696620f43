"""What recording a training step costs on either side: `… track_steps FOLDER STEPS SIDE`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_LOGS = {"loss": 2.5, "grad_norm": 1.25, "learning_rate": 0.01, "epoch": 0.5}
_STEP_SECONDS = 0.02
"""A step of a tiny model: time in which what was queued is sent, and in which other processes read."""


def main(folder: str, steps: str, side: str) -> None:
    home = Path(folder)
    measured = {"tuneline": tuneline, "mlflow": mlflow_callback}[side](home, int(steps))
    print(json.dumps(measured))


def tuneline(home: Path, steps: int) -> dict[str, float]:
    """The worker's recorder, and then what the pipeline spends to bring the same points to MLflow."""
    from tasks.training.recorder import Recorder

    work = home / "work"
    work.mkdir()
    waiting, spent = _steps(home, Recorder(work), steps)
    return {"waiting_ms": waiting, "spent_ms": spent + _shipping_milliseconds(home, work / "metrics.jsonl", steps)}


def mlflow_callback(home: Path, steps: int) -> dict[str, float]:
    """The Trainer's own callback; its points wait in a queue and are sent by threads of the same process."""
    from transformers.integrations import MLflowCallback

    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    mlflow.set_experiment("plain")
    with mlflow.start_run():
        callback = MLflowCallback()
        waiting, spent = _steps(home, callback, steps, mlflow.flush_async_logging)
    return {"waiting_ms": waiting, "spent_ms": spent}


def _steps(
    home: Path, callback: TrainerCallback, steps: int, flush: Callable[[], object] = lambda: None
) -> tuple[float, float]:
    """Milliseconds per step that the training waits, and of CPU that this process spends."""
    args, control = TrainingArguments(output_dir=str(home / "trainer"), report_to=[]), TrainerControl()
    state = TrainerState(max_steps=steps)
    callback.on_train_begin(args, state, control)
    flush()
    waits, spent = [], time.process_time()
    for step in range(1, steps + 1):
        time.sleep(_STEP_SECONDS)
        state.global_step = step
        started = time.perf_counter()
        callback.on_step_begin(args, state, control)
        callback.on_step_end(args, state, control)
        callback.on_log(args, state, control, logs=dict(_LOGS))
        waits.append(time.perf_counter() - started)
    flush()
    return statistics.median(waits) * 1000, (time.process_time() - spent) / steps * 1000


def _shipping_milliseconds(home: Path, metrics: Path, steps: int) -> float:
    """CPU of the pipeline per step: read the worker's lines as it polls, journal them, send them to MLflow."""
    from tasks.records.lines import metric_points
    from tasks.tracking import Run, TrackingSettings, create_run
    from tasks.tracking.shipper import Shipper
    from tasks.training.recording import read_metrics

    spool = home / "spool"
    settings = TrackingSettings(uri=f"sqlite:///{home / 'ours.db'}", flush_seconds=120)
    with Shipper(settings, spool, home / "artifacts") as shipper:
        ref = create_run(spool, name="cell", experiment="bench")
        shipper.flush(60)
        spent = time.process_time()
        lines = read_metrics(metrics)
        polled = round(0.2 / _STEP_SECONDS)
        for start in range(0, len(lines), polled):
            Run(ref).log_metric_series(metric_points(lines[start : start + polled]))
            time.sleep(0.2)
        shipper.flush(60)
        spent = time.process_time() - spent
        Run(ref).finish("FINISHED")
    return spent / steps * 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
