"""Real versions, judged, promoted, tampered with and rolled back, in a real MLflow database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.artifacts import write_durably
from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import ConfigError, ConflictError, GateError, IntegrityError, TunelineError
from tasks.models import BaseModel
from tasks.promotion.ask import Ask, GateFile
from tasks.promotion.evidence import to_list, to_markdown
from tasks.promotion.examine import check_passed
from tasks.promotion.history import history, verify
from tasks.promotion.promote import (
    Desk,
    Judged,
    Promotion,
    answer_request,
    judge,
    pending_approval,
    promote,
    request_approval,
    roll_back,
)
from tasks.registry.record import Record, ScoredChampion
from tasks.registry.register import register
from tasks.registry.settings import ChampionRule, GateSettings
from tests.promotion.worlds import good_record
from tests.registry.worlds import World, make_base, make_full, make_request, make_world, package_of

OPEN = GateFile(path="open.yaml", settings=GateSettings(champion=ChampionRule(require="nothing")))
APPROVED = GateFile(path="approved.yaml", settings=OPEN.settings.model_copy(update={"approval": "required"}))


class Office:
    """A world with a registered model of three versions, and who asks for what."""

    def __init__(self, folder: Path) -> None:
        self.world: World = make_world(folder)
        self.base: BaseModel = make_base(folder / "base")
        self.weights: dict[int, str] = {}
        self.packages: dict[int, Path] = {}
        self.name = "faq"
        for seed in (0, 1, 2):
            self.add(seed)

    def add(self, seed: int, champion: ScoredChampion | None = None) -> int:
        candidate = make_full(self.base, self.world.folder / f"model-{seed}", seed)
        assert candidate.weights is not None
        weights = digest_tree(candidate.weights, ["model.safetensors"])
        request = make_request(self.world, candidate, self.name)
        assert request.example is not None
        mine = good_record().scored.model_copy(update={"weights_digest": weights})
        record = good_record(scored=mine, champion=champion, answer=request.example.answer, model_name=self.name)
        made = register(request.model_copy(update={"record": record}), self.world.tracking, self.world.root)
        self.weights[made.version] = weights
        self.packages[made.version] = package_of(self.world, made)
        return made.version

    def ask(self, version: int = 0, reason: str = "a test", gate: GateFile | None = OPEN, flow_run: str = "") -> Ask:
        return Ask(
            model=self.name,
            version=version,
            reason=reason,
            gate=gate,
            flow_run=flow_run,
            runs=self.world.folder / "runs",
            tracking=self.world.tracking,
        )

    def promote(self, version: int, gate: GateFile | None = OPEN) -> Promotion:
        ask = self.ask(version, gate=gate)
        judged = judge(ask)
        check_passed(judged.evidence)
        return promote(ask, judged, "")

    @property
    def standing(self) -> tuple[int | None, int | None]:
        standing = Desk(self.ask()).model.standing()
        return standing.champion, standing.previous


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return Office(tmp_path_factory.mktemp("office"))


@pytest.fixture
def office(shared: Office, request: pytest.FixtureRequest) -> Office:
    """The shared versions, with aliases and log of a beginning: each test takes a registered model of its own."""
    shared.name = str(request.node.name).replace("[", "-").replace("]", "").replace("/", "-")
    client = shared.world.client
    client.create_registered_model(shared.name)
    for version in client.search_model_versions("name = 'faq'", order_by=["version_number ASC"]):
        client.create_model_version(shared.name, version.source, run_id=version.run_id, tags=dict(version.tags))
    return shared


def test_a_version_that_passes_becomes_the_champion_and_the_old_one_is_kept(office: Office) -> None:
    assert office.promote(1).replaced is None
    assert office.promote(2).replaced == 1
    assert office.standing == (2, 1)


def test_the_evidence_lies_beside_the_version_and_its_page_says_how_it_ended(office: Office) -> None:
    judged = judge(office.ask(1))
    filed = office.packages[1] / "gates" / f"{judged.evidence.digest[:12]}.json"
    assert filed.read_text(encoding="utf-8") == judged.evidence.text
    tag = office.world.client.get_model_version(office.name, "1").tags["tuneline.gate"]
    assert tag == f"passed {judged.evidence.digest}"
    names = [check["name"] for check in json.loads(filed.read_text(encoding="utf-8"))["checks"]]
    assert names == ["record", "same model", "scores", "merge", "leak", "answer"]
    assert "| ✓ | answer | as the evaluation saw |" in to_markdown(judged.evidence)
    assert "- ✓ answer: as the evaluation saw (wanted: as the evaluation saw)" in to_list(judged.evidence)


def test_the_trial_loads_the_version_as_production_does_and_measures_it(office: Office) -> None:
    trial = judge(office.ask(1)).evidence.trial
    assert (trial.same_answer, trial.device) == (True, "cpu")
    assert trial.answer_seconds > 0 and trial.load_seconds > 0 and trial.peak_memory_bytes > 2**20


def test_a_version_that_does_not_pass_changes_nothing_and_each_failed_check_is_named(office: Office) -> None:
    office.promote(1)
    strict = GateFile(path="strict.yaml", settings=GateSettings(max_memory_bytes=1, max_forgetting=0.0))
    with pytest.raises(GateError, match=r"champion loss: version 1 was not asked.*forgetting:.*memory:") as caught:
        office.promote(2, strict)
    assert caught.value.exit_code == 41
    assert office.standing == (1, None)


def test_the_gate_of_the_record_judges_where_no_file_is_given(office: Office) -> None:
    office.promote(1)
    with pytest.raises(GateError, match="champion loss"):
        office.promote(2, gate=None)


def test_the_champion_is_asked_for_by_its_version_and_its_bytes(office: Office) -> None:
    """The record compares with version 1; that is the champion, so the comparison counts."""
    client = office.world.client
    record = record_of(office, 2)
    package = client.get_model_version(office.name, "1").tags["tuneline.package_sha256"]
    theirs = good_record().champion
    assert theirs is not None
    champion = theirs.model_copy(update={"package_digest": package})
    replace_record(office, 2, record.model_copy(update={"champion": champion}))
    office.promote(1)
    assert office.promote(2, gate=None).replaced == 1
    assert judge(office.ask(3, gate=None)).evidence.champion == 2


def record_of(office: Office, version: int) -> Record:
    digest = office.world.client.get_model_version(office.name, str(version)).tags["tuneline.record_sha256"]
    return Record.model_validate_json((office.packages[version] / "records" / f"{digest[:12]}.json").read_bytes())


def replace_record(office: Office, version: int, record: Record) -> None:
    """As a later evaluation of the same bytes leaves it."""
    from tasks.foundation.digests import canonical_json, digest_text

    text = canonical_json(record) + "\n"
    digest = digest_text(text)
    write_durably(office.packages[version] / "records" / f"{digest[:12]}.json", text)
    office.world.client.set_model_version_tag(office.name, str(version), "tuneline.record_sha256", digest)


def restore(files: Mapping[Path, bytes]) -> None:
    """The shared versions as they were; a file may be a second name of the trained weights, so it is replaced."""
    for path, content in files.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def _flip(package: Path) -> Path:
    path = package / "artifacts" / "package" / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()  # it may be a second name of the trained weights
    path.write_bytes(content)
    return path


def _other_code(package: Path) -> Path:
    path = next(package.glob("*.py"))
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    return path


def _other_list(package: Path) -> Path:
    """The weights and the list of digests: only the tag in the registry still tells."""
    from tasks.foundation.digests import digest_file

    path = _flip(package)
    listed = json.loads((package / "files.json").read_text(encoding="utf-8"))
    listed[path.relative_to(package).as_posix()] = digest_file(path)
    (package / "files.json").write_text(json.dumps(listed), encoding="utf-8")
    return package / "files.json"


def _one_more(package: Path) -> Path:
    path = package / "artifacts" / "package" / "sitecustomize.py"
    path.write_text("raise SystemExit", encoding="utf-8")
    return path


def _one_less(package: Path) -> Path:
    path = package / "artifacts" / "package" / "serving.json"
    path.unlink()
    return path


@pytest.mark.parametrize("harm", [_flip, _other_code, _other_list, _one_more, _one_less])
def test_row_49_a_version_whose_files_were_touched_is_refused_with_40_and_production_stands(
    office: Office, harm: Callable[[Path], Path]
) -> None:
    office.promote(1)
    package = office.packages[3]
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    added = harm(package)
    try:
        with pytest.raises(IntegrityError, match="is not intact") as caught:
            office.promote(3)
    finally:
        if added not in before:
            added.unlink()
        restore(before)
    assert caught.value.exit_code == 40
    assert office.standing == (1, None)


def test_a_record_that_was_changed_is_refused_with_40(office: Office) -> None:
    digest = office.world.client.get_model_version(office.name, "2").tags["tuneline.record_sha256"]
    path = office.packages[2] / "records" / f"{digest[:12]}.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"leaked_rows":0', b'"leaked_rows":1'))
    try:
        with pytest.raises(IntegrityError, match=r"the record of .* version 2 was changed"):
            judge(office.ask(2))
    finally:
        path.write_bytes(before)


def test_a_version_without_a_record_passes_no_gate(office: Office) -> None:
    office.world.client.delete_model_version_tag(office.name, "1", "tuneline.record_sha256")
    with pytest.raises(GateError, match="has no record of its evaluation"):
        judge(office.ask(1))


def test_row_46_what_was_judged_against_another_champion_loses_with_42_and_changes_nothing(office: Office) -> None:
    first, second = office.ask(1), office.ask(2)
    judged = judge(first), judge(second)
    promote(first, judged[0], "")
    with pytest.raises(ConflictError, match="version 1 is its champion now") as caught:
        promote(second, judged[1], "")
    assert (caught.value.exit_code, office.standing) == (42, (1, None))


def test_row_48_a_version_that_is_deleted_after_it_was_judged_is_40_and_production_stands(office: Office) -> None:
    office.promote(1)
    ask = office.ask(2)
    judged = judge(ask)
    office.world.client.delete_model_version(office.name, "2")
    with pytest.raises(IntegrityError) as caught:
        promote(ask, judged, "")
    assert (caught.value.exit_code, office.standing) == (40, (1, None))
    assert office.promote(3).replaced == 1, "what was begun is no obstacle to the next"


def test_row_48_a_champion_that_is_deleted_after_the_judgement_is_42(office: Office) -> None:
    office.promote(1)
    ask = office.ask(2)
    judged = judge(ask)
    office.world.client.delete_model_version(office.name, "1")
    with pytest.raises(ConflictError) as caught:
        promote(ask, judged, "")
    assert (caught.value.exit_code, office.standing) == (42, (None, None))


def test_row_48_a_rollback_to_a_version_that_was_deleted_is_40_and_names_what_to_do(office: Office) -> None:
    for version in (1, 2, 3):
        office.promote(version)
    office.world.client.delete_model_version(office.name, "2")
    with pytest.raises(IntegrityError, match=r"version 2 .* was deleted") as caught:
        roll_back(office.ask())
    assert (caught.value.exit_code, office.standing[0]) == (40, 3)
    assert "--version" in str(caught.value)
    assert roll_back(office.ask(1)).replaced == 3


def test_promoting_the_champion_again_writes_nothing(office: Office) -> None:
    office.promote(1)
    assert office.promote(1).entry == 0
    assert len(history(office.ask())) == 1


def test_row_50_a_rollback_restores_the_version_before_and_the_next_one_goes_further(office: Office) -> None:
    for version in (1, 2, 3):
        office.promote(version)
    assert roll_back(office.ask()).version == 2
    assert office.standing == (2, 1)
    assert roll_back(office.ask()).version == 1
    assert office.standing == (1, None)
    with pytest.raises(ConfigError, match="has had no other champion than version 1"):
        roll_back(office.ask())


def test_a_rollback_can_name_any_earlier_champion_and_no_other_version(office: Office) -> None:
    office.promote(1)
    office.promote(2)
    with pytest.raises(ConfigError, match=r"version 3 is no earlier champion .* Allowed: 1"):
        roll_back(office.ask(3))
    assert roll_back(office.ask(1)).replaced == 2


def test_row_49_a_rollback_to_files_that_were_touched_is_refused(office: Office) -> None:
    office.promote(1)
    office.promote(2)
    path = office.packages[1] / "artifacts" / "package" / "serving.json"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    try:
        with pytest.raises(IntegrityError, match=r"serving\.json was changed"):
            roll_back(office.ask())
    finally:
        restore({path: before})
    assert office.standing == (2, 1)


def test_the_history_tells_who_did_what_and_why_and_holds(office: Office) -> None:
    office.promote(1)
    office.promote(2)
    roll_back(office.ask(reason="bad answers"))
    lines = history(office.ask())
    assert [(line.action, line.version, line.instead_of, line.outcome) for line in lines] == [
        ("promote", 1, None, "done"),
        ("promote", 2, 1, "done"),
        ("rollback", 1, 2, "done"),
    ]
    assert lines[-1].reason == "bad answers" and "@" in lines[-1].who
    assert verify(office.ask()) == []


def test_an_alias_that_was_moved_by_hand_is_told(office: Office) -> None:
    office.promote(1)
    office.world.client.set_registered_model_alias(office.name, "champion", "3")
    assert verify(office.ask()) == ["the log says @champion is version 1, it stands at 3: moved by hand"]


def test_evidence_that_was_changed_afterwards_is_found_by_the_history(office: Office) -> None:
    ask = office.ask(1)
    judged = judge(ask)
    promote(ask, judged, "")
    path = office.packages[1] / "gates" / f"{judged.evidence.digest[:12]}.json"
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"passed":true', b'"passed":false', 1))
    try:
        with pytest.raises(IntegrityError, match=r"the evidence for .* was changed"):
            verify(ask)
    finally:
        path.write_bytes(before)


def requested(office: Office) -> tuple[Ask, Judged]:
    """A flow run has judged version 1 and asks a person."""
    ask = office.ask(1, gate=APPROVED, flow_run="f" * 8)
    judged = judge(ask)
    assert judged.needs_approval
    request_approval(ask, judged)
    return ask, judged


def test_a_flow_run_that_goes_on_after_its_question_finds_what_it_had_judged(office: Office) -> None:
    ask, judged = requested(office)
    found = pending_approval(ask)
    assert found is not None
    entry, again = found
    assert again == judged
    assert pending_approval(office.ask(1, flow_run="another")) is None
    assert answer_request(ask, entry, "Ann", "looks good", approve=True) == "Ann"
    promote(ask, again, "Ann")
    assert office.standing == (1, None)
    assert [(line.action, line.outcome) for line in history(ask)] == [
        ("requested", "approved by Ann: looks good"),
        ("promote", "done"),
    ]


def refused(office: Office, approve: bool, until: timedelta) -> TunelineError:
    ask, _ = requested(office)
    found = pending_approval(ask)
    assert found is not None
    entry = found[0].model_copy(update={"until": (datetime.now(UTC) + until).isoformat()})
    with pytest.raises(GateError) as caught:
        answer_request(ask, entry, "Bob", "not now", approve=approve)
    assert office.standing == (None, None)
    assert [line.outcome.partition(" by ")[0] for line in history(ask)] == ["rejected"]
    return caught.value


def test_a_rejection_ends_it_with_the_reason(office: Office) -> None:
    assert "rejected by Bob: not now" in str(refused(office, False, timedelta(hours=1)))


def test_an_answer_after_the_time_limit_is_a_rejection(office: Office) -> None:
    assert "the answer came after" in str(refused(office, True, timedelta(hours=-1)))


def test_what_was_approved_is_verified_once_more_before_it_moves(office: Office) -> None:
    ask, judged = requested(office)
    path = office.packages[1] / "artifacts" / "package" / "serving.json"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    try:
        with pytest.raises(IntegrityError):
            promote(ask, judged, "Ann")
    finally:
        restore({path: before})
    assert office.standing == (None, None)


def test_what_was_evaluated_anew_since_the_question_has_to_be_judged_again(office: Office) -> None:
    ask, judged = requested(office)
    before = office.world.client.get_model_version(office.name, "1").tags["tuneline.record_sha256"]
    replace_record(office, 1, record_of(office, 1).model_copy(update={"label": "again"}))
    with pytest.raises(GateError, match="was evaluated anew since it was judged"):
        promote(ask, judged, "Ann")
    office.world.client.set_model_version_tag(office.name, "1", "tuneline.record_sha256", before)
