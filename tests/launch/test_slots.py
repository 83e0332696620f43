"""How many cells work side by side, and on which accelerators."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tasks.foundation.errors import CancelledRunError, ResourceError
from tasks.launch.launchers.local import LocalLauncher
from tasks.launch.slots import Devices, Slots, accelerators, current_slots, held_devices, sharing, slots_for

FOUR = ("0", "1", "2", "3")


def groups_of(slots: Slots) -> list[Devices]:
    """All slots, taken until none is left."""
    found: list[Devices] = []

    def take(left: int) -> None:
        if left:
            with slots.hold() as devices:
                found.append(devices)
                take(left - 1)

    take(slots.count)
    return found


@pytest.mark.parametrize(
    ("devices", "cores", "ranks", "parallel", "expected"),
    [
        (FOUR, 8, 1, None, [("0",), ("1",), ("2",), ("3",)]),
        (FOUR, 8, 2, None, [("0", "1"), ("2", "3")]),
        (FOUR, 8, 3, None, [("0", "1", "2")]),
        (FOUR, 8, 4, None, [FOUR]),
        (FOUR, 8, 1, 2, [("0",), ("1",)]),
        (FOUR, 8, 2, 9, [("0", "1"), ("2", "3")]),
        ((), 8, 1, None, [()] * 8),
        ((), 8, 3, None, [()] * 2),
        ((), 2, 4, None, [()]),
        ((), 8, 1, 3, [()] * 3),
        ((), 1, 1, 3, [()] * 3),
    ],
)
def test_slots_are_disjoint_groups_of_accelerators_or_places_on_a_cpu(
    devices: Devices, cores: int, ranks: int, parallel: int | None, expected: list[Devices]
) -> None:
    settings = LocalLauncher(ranks_per_node=ranks, parallel_cells=parallel)

    assert groups_of(slots_for(settings, devices, cores)) == expected


def test_more_ranks_than_accelerators_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(ResourceError, match=r"distributed.ranks_per_node: 5 ranks .* 4 accelerators .* at most 4"):
        slots_for(LocalLauncher(ranks_per_node=5), FOUR, 8)


def test_a_slot_is_never_held_twice_at_a_time() -> None:
    slots = Slots((("0",), ("1",), ("2",)))
    holders: list[Devices] = []
    seen: list[list[Devices]] = []
    together = threading.Barrier(3, timeout=120)

    def work() -> None:
        with slots.hold() as devices:
            holders.append(devices)
            together.wait()
            seen.append(sorted(holders))
            together.wait()  # nobody leaves before all three have looked
            holders.remove(devices)

    threads = [threading.Thread(target=work) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [[("0",), ("1",), ("2",)]] * 15
    assert holders == []


def test_a_slot_is_free_again_after_a_failure() -> None:
    slots = Slots((("0",),))
    with pytest.raises(KeyError), slots.hold():
        raise KeyError

    assert groups_of(slots) == [("0",)]


def test_what_a_slot_holds_is_known_while_it_is_held() -> None:
    with Slots((("7",),)).hold():
        assert held_devices() == ("7",)
    assert held_devices() == ()


def test_who_waits_for_a_slot_when_the_flow_ends_is_sent_away() -> None:
    slots = Slots(((),))
    caught: list[BaseException] = []

    def wait_for_a_slot() -> None:
        try:
            with slots.hold():
                pass
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait_for_a_slot)
    with slots.hold():
        with sharing(slots):
            thread.start()
        thread.join(120)

    assert [type(error) for error in caught] == [CancelledRunError]
    with pytest.raises(CancelledRunError), slots.hold():
        pass


def test_a_flow_shares_its_slots_with_its_tasks() -> None:
    slots = Slots(((), ()))
    with sharing(slots):
        assert current_slots() is slots
    assert current_slots().count == 1


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,2", ("0", "2")),
        (" 1, 3 ", ("1", "3")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("GPU-5a,MIG-7b", ("GPU-5a", "MIG-7b")),
    ],
)
def test_the_accelerators_are_those_that_cuda_visible_devices_names(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: Devices
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert accelerators() == expected


def test_without_that_variable_the_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in the place of the driver's own program, which a machine without accelerators has not."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g: y'\necho 'GPU 1: A (UUID: z)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert accelerators() == ("0", "1")

    tool.write_text("#!/bin/sh\nexit 9\n")
    assert accelerators() == ()


def test_without_a_driver_there_is_no_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert accelerators() == ()
