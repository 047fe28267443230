"""The store on S3-compatible storage: shared by nodes, shippers killed; refused where commits are lost."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.preflight import check_store
from store import conditional_puts
from store.conditional_puts import Unsafe
from store.errors import StoreError
from store.reader import Reader
from store.rows import day_of
from store.shipper import Shipper, spools_of
from store.tables import Tables
from store.verify import verify
from tests import s3
from tests.records import detection
from tests.test_store_shipper import KILLED, kept

STORE = f"s3://{s3.BUCKET}/store"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An S3 server."""
    with s3.server() as running:
        yield running


@pytest.fixture
def bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """This process, and those it starts, know the server."""
    for name, value in s3.environ(url).items():
        monkeypatch.setenv(name, value)
    return url


def test_conditional_puts_are_seen(bucket: str) -> None:
    """A storage that honours them is taken, again and again."""
    conditional_puts.check(STORE)
    conditional_puts.check(STORE)


def test_a_storage_that_loses_commits_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a server that forgets `If-None-Match`, the check says what is wrong and what to do."""
    with s3.without_conditions(bucket) as careless:
        monkeypatch.setenv("AWS_ENDPOINT_URL", careless)
        with pytest.raises(Unsafe, match="ignores conditional puts"):
            conditional_puts.check(f"s3://{s3.BUCKET}/careless")
        monkeypatch.setenv("GLASSHOUSE_STORE", f"s3://{s3.BUCKET}/careless")
        assert [line.partition(":")[0] for line in check_store()] == ["GLASSHOUSE_STORE"]


def test_a_storage_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, soon, that names the store."""
    for name, value in s3.environ("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=STORE):
        conditional_puts.check(STORE)


def test_killed_anywhere_on_s3(bucket: str, tmp_path: Path) -> None:
    """A shipper that is killed ever a few steps later leaves every row and image in the bucket, once."""
    store = f"s3://{s3.BUCKET}/killed"
    sent = [detection(number) for number in range(24)]
    kept(tmp_path, sent[:12])
    kept(tmp_path, sent[12:])
    kills = 0
    for step in range(2, 1_000, 7):
        command = [sys.executable, "-c", KILLED, str(tmp_path), store, str(step)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if "ended" in done.stdout:
            break
        assert done.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    shipper = Shipper(tmp_path, Tables(store))
    with shipper.alone():
        while shipper.turn().more:
            pass
    assert not spools_of(tmp_path)
    tables = Tables(store)
    opened = tables.open("detections")
    assert opened is not None
    found = opened.to_pyarrow_table().column("inference_id").to_pylist()
    assert Counter(found) == Counter(one.id for one in sent)
    assert verify(tables, tmp_path).wrong == []
    reader = Reader(store)
    for one in sent:
        assert one.image_sha256 is not None
        assert reader.image(one.image_sha256, day_of(one.id)) == one.image


SHIP = """
import sys
from pathlib import Path
from store.shipper import Shipper
from store.tables import Tables
shipper = Shipper(Path(sys.argv[1]), Tables(sys.argv[2]))
with shipper.alone():
    while shipper.turn().more:
        pass
"""


def test_nodes_share_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Four nodes at the same time lose nothing."""
    store = f"s3://{s3.BUCKET}/shared"
    sent = [detection(number) for number in range(32)]
    nodes = [tmp_path / f"node-{number}" for number in range(4)]
    for number, node in enumerate(nodes):
        kept(node, sent[number::4])
    shippers = [subprocess.Popen([sys.executable, "-c", SHIP, str(node), store]) for node in nodes]
    assert [one.wait(120) for one in shippers] == [0] * 4
    opened = Tables(store).open("detections")
    assert opened is not None
    found = Counter(opened.to_pyarrow_table().column("inference_id").to_pylist())
    assert found == Counter(one.id for one in sent)
