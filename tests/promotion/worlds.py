"""Records that pass, registered versions to promote, and what stands in the registry afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tasks.promotion.entries import Draft, Entry
from tasks.promotion.gate import Champion, Situation
from tasks.promotion.log import Log, acting, nonce, stamp
from tasks.promotion.switch import Change, Switch
from tasks.registry.ledger import Ledger
from tasks.registry.record import MergeRecord, Record, Scored, ScoredChampion
from tasks.registry.registered import RegisteredModel, Standing
from tasks.registry.server import FILES, Registry
from tasks.registry.settings import GateSettings
from tasks.registry.trial import Trial
from tasks.tracking import TrackingSettings

PACKAGE, WEIGHTS, ROWS = "a" * 64, "b" * 64, "c" * 64
CHAMPION_PACKAGE = "d" * 64
ROW_IDS = [f"{number:064x}" for number in range(40)]


def per_row(scores: list[float]) -> dict[str, float]:
    return dict(zip(ROW_IDS, scores, strict=True))


def good_record(**changed: Any) -> Record:
    """Passes: the challenger is better by 0.1 on each of 40 rows."""
    mine = Scored(
        weights_digest=WEIGHTS,
        rows_digest=ROWS,
        metrics={"loss": 1.0, "exact_match": 0.9},
        per_row={"loss": per_row([1.0 + 0.01 * (n % 7) for n in range(40)]), "exact_match": per_row([1.0] * 40)},
        probe_loss=2.05,
    )
    champion = ScoredChampion(
        weights_digest="e" * 64,
        rows_digest=ROWS,
        metrics={"loss": 1.1, "exact_match": 0.8},
        per_row={"loss": per_row([1.1 + 0.013 * (n % 7) for n in range(40)]), "exact_match": per_row([0.5] * 40)},
        version=1,
        package_digest=CHAMPION_PACKAGE,
    )
    facts: dict[str, Any] = {
        "model_name": "faq",
        "label": "lora",
        "run_id": "1" * 32,
        "package_digest": PACKAGE,
        "fingerprint": "2" * 64,
        "base_digest": "3" * 64,
        "tokenizer_digest": "4" * 64,
        "data_digest": "5" * 64,
        "code_commit": "6" * 40,
        "metric": "loss",
        "directions": {"loss": False, "exact_match": True},
        "scored": mine,
        "base_probe_loss": 2.0,
        "champion": champion,
        "merge": MergeRecord(outcome="merged", largest_difference=1e-7, tolerance=1e-5),
        "eval_rows": 40,
        "leaked_rows": 0,
        "on_leak": "error",
        "gate": GateSettings(),
    }
    return Record(**{**facts, **changed})


def good_situation(**changed: Any) -> Situation:
    trial = Trial(
        answer="Aromi",
        same_answer=True,
        load_seconds=1.0,
        answer_seconds=0.2,
        peak_memory_bytes=500 * 2**20,
        device="cpu",
    )
    facts: dict[str, Any] = {
        "package_digest": PACKAGE,
        "weights_digest": WEIGHTS,
        "champion": Champion(version=1, package_digest=CHAMPION_PACKAGE),
        "trial": trial,
    }
    return Situation(**{**facts, **changed})


class Shelf:
    """A registered model with versions that hold one small file each: enough for aliases and the log."""

    def __init__(self, tracking: TrackingSettings, name: str, folder: Path) -> None:
        self.tracking, self.name, self.folder = tracking, name, folder
        self.registry = Registry(tracking)
        self.model = RegisteredModel(self.registry, name)
        self.log = Log(Ledger(self.registry, name), name, folder / "anchors")
        self.switch = Switch(self.model, self.log)

    @property
    def client(self) -> MlflowClient:
        return self.registry.client

    def add_versions(self, count: int) -> None:
        client = self.client
        experiment = client.create_experiment(f"cells of {self.name}")
        client.create_registered_model(self.name)
        for _ in range(count):
            run = client.create_run(experiment)
            client.log_dict(run.info.run_id, {}, f"model/{FILES}")
            client.create_model_version(self.name, f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)

    def another(self) -> Shelf:
        """The same model as another process sees it."""
        return Shelf(self.tracking, self.name, self.folder)

    def move(self, version: int, expected: int | None, action: str = "promote", previous: int | None = None) -> Entry:
        return self.switch.change(self.asked(version, expected, action, previous))

    def asked(self, version: int, expected: int | None, action: str = "promote", previous: int | None = None) -> Change:
        draft = Draft(
            action=action,  # type: ignore[arg-type]
            model=self.name,
            version=version,
            after=Standing(champion=version, previous=expected if previous is None else previous),
            author=acting(),
            reason="a test",
            at=stamp(),
            nonce=nonce(),
        )
        return Change(draft=draft, expected=expected)

    def aliases(self) -> tuple[int | None, int | None]:
        standing = self.model.standing()
        return standing.champion, standing.previous

    def texts(self) -> list[str]:
        return Ledger(self.registry, self.name).read()

    def actions(self) -> list[str]:
        return [json.loads(text)["action"] for text in self.texts()]
