"""The installer of the telemetry programs, stopped, killed, and started twice: nothing half is ever left."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from launch.programs import ProgramError, Stopped
from models.lock import alone
from tests.poll import poll_until
from tests.tiny_program import ARCHIVE, Workshop, archive, publishing, script


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """A program without a release, and a Go that builds it."""
    made = Workshop(tmp_path)
    made.add_go()
    return made


def test_a_stop_ends_the_build_with_its_children(shop: Workshop) -> None:
    """A stop in mid-build ends Go and what it started, and leaves nothing in the cache."""
    shop.hold.write_text("import time; time.sleep(600)")
    stop, raised = threading.Event(), list[Exception]()
    thread = threading.Thread(target=_catching, args=(shop, stop, raised))
    thread.start()
    pids = poll_until((shop.log.parent / "pids").read_text, "the build")
    stop.set()
    thread.join()

    assert [type(error) for error in raised] == [Stopped]
    assert not any(_alive(int(pid)) for pid in pids.split())
    assert shop.left() == []


def test_a_killed_build_leaves_nothing_that_would_be_used(shop: Workshop) -> None:
    """After kill -9 in mid-build Go ends too; the next call builds anew, and clears away what was left."""
    shop.hold.write_text("pass")
    command = [sys.executable, "-m", "launch.programs", "tiny", f"--folder={shop.folder}"]
    killed = subprocess.Popen(command, env=os.environ | shop.environ, stderr=subprocess.DEVNULL)
    go = int(poll_until((shop.log.parent / "pids").read_text, "the build").split()[0])
    killed.kill()
    killed.wait()
    poll_until(lambda: not _alive(go), "the end of Go")
    assert all(name.startswith(".") for name in shop.left())

    shop.hold.unlink()
    assert shop.obtain().path.parent.name == shop.left()[0]
    assert len(shop.left()) == 1


def test_an_interrupted_command_ends_in_order(shop: Workshop) -> None:
    """SIGTERM to the command line ends its Go and exits with 130, saying that it was stopped."""
    shop.hold.write_text("pass")
    command = [sys.executable, "-m", "launch.programs", "tiny", f"--folder={shop.folder}"]
    with subprocess.Popen(
        command, env=os.environ | shop.environ, stderr=subprocess.PIPE, text=True
    ) as running:
        go = int(poll_until((shop.log.parent / "pids").read_text, "the build").split()[0])
        running.send_signal(signal.SIGTERM)
        said = running.communicate(timeout=30)[1]

    assert (running.returncode, _alive(go), shop.left()) == (130, False, [])
    assert said.endswith("stopped: it was asked to\n")


def test_a_stop_ends_a_download(tmp_path: Path) -> None:
    """A stop while the release is on its way ends the installation; Go is not asked in its place."""
    stop = threading.Event()
    stop.set()
    with publishing() as publisher:
        shop = Workshop(tmp_path, publisher.url)
        shop.add_go()
        publisher.files[f"/{ARCHIVE}"] = content = archive(script())
        shop.pin(f"{publisher.url}/{ARCHIVE}", content)

        with pytest.raises(Stopped):
            shop.obtain(stop)

    assert (shop.builds(), shop.left()) == (0, [])


def test_two_at_once_build_once(shop: Workshop) -> None:
    """The second waits for the first, says so, and takes its build."""
    shop.hold.write_text("pass")
    paths = list[Path]()
    threads = [threading.Thread(target=lambda: paths.append(shop.obtain().path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    poll_until(lambda: shop.builds() == 1, "the build")
    poll_until(lambda: "tiny: waiting: another process installs it" in shop.told, "the other's word")
    shop.hold.unlink()
    for thread in threads:
        thread.join()

    assert (1, paths[0]) == (shop.builds(), paths[1])


def test_who_waits_for_another_can_be_stopped(shop: Workshop) -> None:
    """A stop ends the waiting for another process's build."""
    folder, stop, raised = shop.cache / "glasshouse" / "programs", threading.Event(), list[Exception]()
    folder.mkdir(parents=True)
    with alone(folder / ".tiny.lock", lambda: None):
        thread = threading.Thread(target=_catching, args=(shop, stop, raised))
        thread.start()
        poll_until(lambda: shop.told, "the waiting")
        stop.set()
        thread.join()

    assert [type(error) for error in raised] == [Stopped]


def _catching(shop: Workshop, stop: threading.Event, raised: list[Exception]) -> None:
    try:
        shop.obtain(stop)
    except ProgramError as error:
        raised.append(error)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
