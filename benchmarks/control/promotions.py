"""Rows 46 to 50: what becomes of a promotion that is MLflow's own calls, as its documentation of aliases shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

from benchmarks.findings import Finding

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "plain"
_RACERS = 20


class Shop:
    """A registry in a folder, with three versions of a model whose run has the metric `loss`, and one of which is the
    champion."""

    def __init__(self, folder: Path, losses: tuple[float | None, ...] = (1.0, 0.9, 0.8)) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        folder.mkdir(parents=True)
        self.client: MlflowClient = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        self._experiment = self.client.create_experiment(NAME, (folder / "artifacts").as_uri())
        self.client.create_registered_model(NAME)
        for loss in losses:
            self._version(loss)
        self.client.set_registered_model_alias(NAME, "champion", "1")

    def _version(self, loss: float | None) -> None:
        run = self.client.create_run(self._experiment).info.run_id
        if loss is not None:
            self.client.log_metric(run, "loss", loss)
        self.client.log_text(run, "weights", "model/weights.txt")
        self.client.create_model_version(NAME, f"runs:/{run}/model", run_id=run)

    def loss(self, version: str) -> float:
        """Of the run that made it.

        Raises:
            KeyError: it was not logged.
        """
        run_id = self.client.get_model_version(NAME, version).run_id
        return float(self.client.get_run(str(run_id)).data.metrics["loss"])

    @property
    def champion(self) -> str:
        return str(self.client.get_registered_model(NAME).aliases.get("champion"))

    def promote(self, version: str) -> bool:
        """If its loss is lower than the champion's, move the alias."""
        if self.loss(version) >= self.loss(self.champion):
            return False
        self.client.set_registered_model_alias(NAME, "champion", version)
        return True


def promoted_at_once(folder: Path) -> Iterator[Finding]:
    """Row 46: all have seen the same champion, and each is better than that one."""
    losses = (1.0, *(0.5 + number / 100 for number in range(_RACERS)))
    shop, start = Shop(folder / "46", losses), Barrier(_RACERS)

    def race(version: int) -> bool:
        better = shop.loss(str(version)) < shop.loss("1")
        start.wait()
        if better:
            shop.client.set_registered_model_alias(NAME, "champion", str(version))
        return better

    with ThreadPoolExecutor(_RACERS) as pool:
        told = sum(pool.map(race, range(2, _RACERS + 2)))
    saw = (
        f"{told} of {_RACERS} were told that they are the champion; it is version {shop.champion}, "
        "the best one was version 2; nothing says who was"
    )
    verdict = "silent" if told > 1 else "right"
    yield Finding(name="46", done=f"{_RACERS} promotions at once", saw=saw, verdict=verdict)


def scores_that_say_nothing(folder: Path) -> Iterator[Finding]:
    """Row 47: the challenger's loss is missing, not a number, or of easier rows."""
    for case, loss in (("is missing", None), ("is NaN", math.nan), ("is of other, easier rows", 0.1)):
        shop = Shop(folder / f"47-{case.split(' ')[-1]}", (1.0, loss))
        done = f"the challenger's loss {case}"
        try:
            moved = shop.promote("2")
        except KeyError as error:
            yield Finding(name="47", done=done, saw=f"KeyError: {error}", verdict="loud")
            continue
        saw = "it is the champion" if moved else "it was refused"
        yield Finding(name="47", done=done, saw=saw, verdict="silent" if moved else "right")


def version_deleted(folder: Path) -> Iterator[Finding]:
    """Row 48: between the comparison and the alias."""
    from mlflow.exceptions import MlflowException

    shop = Shop(folder / "48")
    shop.client.delete_model_version(NAME, "2")
    try:
        shop.client.set_registered_model_alias(NAME, "champion", "2")
    except MlflowException as error:
        saw = f"{error.error_code}; the champion is version {shop.champion}"
        yield Finding(name="48", done="the version is deleted before its alias", saw=saw, verdict="loud")
    else:
        saw = f"the champion is version {shop.champion}, which is not there"
        yield Finding(name="48", done="the version is deleted before its alias", saw=saw, verdict="silent")


def file_touched(folder: Path) -> Iterator[Finding]:
    """Row 49: a file of the version is changed in the artifact store."""
    shop = Shop(folder / "49")
    (path,) = (folder / "49" / "artifacts").rglob(f"{_run_of(shop, '2')}/**/weights.txt")
    path.write_text("others", encoding="utf-8")
    moved = shop.promote("2")
    read = Path(shop.client.download_artifacts(_run_of(shop, "2"), "model/weights.txt")).read_text(encoding="utf-8")
    saw = f"{'promoted' if moved else 'refused'}, and served as it is now ({read!r})"
    verdict = "silent" if moved and read == "others" else "loud"
    yield Finding(name="49", done="a file of the version is changed after it was registered", saw=saw, verdict=verdict)


def rolled_back(folder: Path) -> Iterator[Finding]:
    """Row 50: there is no such call; whoever moves the alias back has to know where it stood."""
    shop = Shop(folder / "50")
    shop.promote("2")
    aliases = dict(shop.client.get_registered_model(NAME).aliases)
    saw = f"the registry knows {aliases}, not what was before"
    yield Finding(name="50", done="back to the champion before", saw=saw, verdict="not applicable")


def _run_of(shop: Shop, version: str) -> str:
    return str(shop.client.get_model_version(NAME, version).run_id)


ROWS = (promoted_at_once, scores_that_say_nothing, version_deleted, file_touched, rolled_back)
