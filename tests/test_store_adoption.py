"""Whose spools the shipper takes over, and what it does when it was cut off: nothing is passed over."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from deployments.shipping import Watch, longest, older
from store.shipper import DAMAGED, ORPHANED_S, Shipper
from store.spool import OWNER, Spool
from store.tables import Tables
from tests.poll import poll_until
from tests.records import detection
from tests.test_store_shipper import ids, kept, ship


def test_a_turn_cut_off_names_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that its table cannot have is set aside also by who comes back after a commit of the others."""
    unfit = detection(2, width="wide")
    kept(tmp_path / "spool", [detection(1), unfit])
    shipper = Shipper(tmp_path / "spool", Tables(str(tmp_path / "store")))

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, shipper.alone(), pytest.raises(KeyboardInterrupt):
        patch.setattr(shipper, "_finish", cut_off)
        shipper.turn()
    assert len(ids(tmp_path / "store")) == 1
    (turn,) = ship(tmp_path / "spool", tmp_path / "store")
    assert [kind for kind, said in turn.damages if unfit.id in said] == ["row"]
    assert list((tmp_path / "spool" / DAMAGED).glob("*/*.sqlite"))


def test_a_writer_killed_while_its_clock_was_ahead(tmp_path: Path) -> None:
    """Its spool is shipped when the clock is right again, not when it gets to where it was."""
    spool = kept(tmp_path / "spool", [detection(1)])
    ahead = time.time() + 86_400
    os.utime(spool / OWNER, (ahead, ahead))
    ship(tmp_path / "spool", tmp_path / "store")
    assert len(ids(tmp_path / "store")) == 1


def test_a_stray_file_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody has put into a spool is named once, and left where it is; the others are shipped."""
    spool = kept(tmp_path / "spool", [detection(number) for number in range(8)])
    stray = spool / "backup.sqlite"
    stray.write_bytes((spool / "00000001.sqlite").read_bytes())
    shipper = Shipper(tmp_path / "spool", Tables(str(tmp_path / "store")))
    with shipper.alone():
        while shipper.turn().more:
            pass
        shipper.turn()
    assert set(ids(tmp_path / "store").values()) == {1}
    assert len(ids(tmp_path / "store")) == 8
    assert stray.exists()
    assert Counter(record.levelname for record in caplog.records if str(stray) in record.message) == {
        "WARNING": 1
    }


def test_a_stray_file_does_not_stop_a_writer(tmp_path: Path) -> None:
    """Nor does it stop the replica whose spool it is, or the look at what waits."""
    spool = Spool(tmp_path / "spool", "detection")
    spool.append([detection(1)])
    (spool.folder / "backup.sqlite").write_bytes(b"")
    spool.append([detection(2)])
    spool.close()
    os.utime(spool.folder / OWNER, (0, 0))
    ship(tmp_path / "spool", tmp_path / "store")
    assert len(ids(tmp_path / "store")) == 2


def test_a_spool_without_owner_is_adopted(tmp_path: Path) -> None:
    """Where somebody has removed `owner`, its records are shipped after a minute."""
    spool = kept(tmp_path / "spool", [detection(1)])
    (spool / OWNER).unlink()
    ship(tmp_path / "spool", tmp_path / "store")
    assert list(spool.glob("*.sqlite")), "it may be in the making"
    then = time.time() - ORPHANED_S - 1
    os.utime(spool, (then, then))
    ship(tmp_path / "spool", tmp_path / "store")
    assert len(ids(tmp_path / "store")) == 1
    assert not spool.exists()


class Heard:
    """A shipper, as far as `Watch` sees it: told with `remote`, as Ray's handles are."""

    def __init__(self) -> None:
        self.settings: list[tuple[str, dict[str, int]]] = []

    @property
    def configure(self) -> "Heard":
        """The method, which is this itself."""
        return self

    def remote(self, application: str, retain_days: dict[str, int]) -> None:
        """Hear."""
        self.settings.append((application, retain_days))


def test_a_shipper_that_came_back_is_told_again() -> None:
    """A replica tells whichever shipper is there at each look: one that was killed has forgotten."""
    came = [Heard(), Heard(), Heard()]
    looks = iter(came)
    watch = Watch("1.0", "detection", {"images": 7}, lambda _: next(looks), look_s=0.01)
    poll_until(lambda: all(one.settings for one in came), "all three were told", 10)
    watch.close()
    assert [one.settings for one in came] == [[("detection", {"images": 7})]] * 3


def test_the_longest_retention_counts() -> None:
    """Two applications share one store: nothing goes that one of them wants to have."""
    asked = {"detection": {"detections": 30, "images": 7}, "recommendation": {"images": 14}}
    assert longest(asked) == {"detections": 30, "images": 14}


def test_the_newer_code_ships() -> None:
    """Replicas of an old and a new version side by side do not replace each other's shipper in turns."""
    assert older("0.9", "0.10")
    assert not older("0.10", "0.9")
    assert not older("0.10", "0.10")
