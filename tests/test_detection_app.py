"""The detection application with the real weights, straight through ASGI."""

import re
from collections.abc import Generator
from io import BytesIO
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.detection import DetectionService
from deployments.schemas import DetectAnswer
from deployments.settings import Admitting, DetectionArgs, DetectionTunables
from tests.asgi import Asgi
from tests.bad_requests import Bad, bad_uploads, form
from tests.photos import jpeg_bytes, photographs

pytestmark = pytest.mark.data

JPEG = {"Content-Type": "image/jpeg"}
BUS = jpeg_bytes("bus")


@pytest.fixture(scope="module")
def app() -> Generator[Asgi[DetectionService], None, None]:
    """The application on the CPU, with the default settings."""
    asgi = Asgi(lambda: DetectionService(DetectionArgs(device="cpu")), "/detect")
    yield asgi
    asgi.close()


def detect(app: Asgi[DetectionService], data: bytes = BUS, **query: Any) -> httpx.Response:
    """Send one JPEG."""
    return app.request("POST", content=data, headers=JPEG, params=query)


def boxes(answer: httpx.Response) -> list[tuple[str, list[float]]]:
    """Return names and corners of an answer."""
    return [(found["class_name"], list(found["box"].values())) for found in answer.json()["detections"]]


def test_a_photograph_gets_its_boxes(app: Asgi[DetectionService]) -> None:
    """The bus and its people are found, in the documented form, and the inference has a UUIDv7."""
    answer = detect(app)
    assert answer.status_code == 200
    checked = DetectAnswer.model_validate_json(answer.content)
    names = [found.class_name for found in checked.detections]
    assert (names.count("bus"), names.count("person")) == (1, 4)
    assert answer.headers["X-Inference-ID"] == checked.inference_id
    assert UUID(checked.inference_id).version == 7


def test_an_answer_tells_where_its_time_went(app: Asgi[DetectionService]) -> None:
    """`Server-Timing` names queue and batch in milliseconds, and how many ran together."""
    answers = app.requests([("POST", "", {"content": BUS, "headers": JPEG})] * 3)
    headers = [answer.headers["Server-Timing"] for answer in answers]
    assert all(re.fullmatch(r'queue;dur=[\d.]+, batch;dur=[\d.]+;desc="[123]"', text) for text in headers)


def test_a_form_is_the_same_as_a_body(app: Asgi[DetectionService]) -> None:
    """The multipart field `file` gets the same boxes as the bare body."""
    form = app.request("POST", files={"file": ("bus.jpg", BUS, "image/jpeg")})
    assert boxes(form) == boxes(detect(app))


def test_boxes_are_in_pixels_of_the_upright_image(app: Asgi[DetectionService]) -> None:
    """A photograph stored lying, with EXIF orientation, gets the boxes of the upright one."""
    upright = Image.open(BytesIO(BUS))
    lying, exif, out = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif(), BytesIO()
    exif[0x0112] = 6
    lying.save(out, format="JPEG", quality=95, exif=exif)
    answer = detect(app, out.getvalue())
    assert answer.json()["image"] == {"width": upright.width, "height": upright.height}
    assert [name for name, _ in boxes(answer)].count("bus") == 1
    found, expected = (dict(boxes(one))["bus"] for one in (answer, detect(app)))
    assert np.abs(np.subtract(found, expected)).max() < 6


def test_settings_are_each_requests_own(app: Asgi[DetectionService]) -> None:
    """In one batch, each request gets its own confidence, classes and number."""
    queries: list[dict[str, Any]] = [{}, {"classes": "bus"}, {"classes": "0"}, {"max_detections": 2}]
    answers = app.requests(
        [("POST", "", {"content": BUS, "headers": JPEG, "params": query}) for query in queries]
    )
    counts = [{name for name, _ in boxes(answer)} for answer in answers]
    assert (counts[1], counts[2]) == ({"bus"}, {"person"})
    assert len(boxes(answers[3])) == 2 < len(boxes(answers[0]))


@pytest.mark.parametrize("bad", bad_uploads(BUS), ids=lambda bad: str(bad.name))
def test_a_wrong_upload_gets_the_right_error(app: Asgi[DetectionService], bad: Bad) -> None:
    """Each way to be wrong has its own status and code, and a message."""
    answer = app.request("POST", bad.path.removeprefix("/detect"), content=bad.body, headers=bad.headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (bad.status, bad.code)
    assert len(answer.json()["error"]["message"]) > 10


def test_bad_neighbours_change_nothing(app: Asgi[DetectionService]) -> None:
    """Good images between bad ones, all at once, get the boxes that they get alone."""
    good = [jpeg_bytes(name) for name in list(photographs())[:4]]
    alone = [boxes(detect(app, data)) for data in good]
    bad = [bad.body for bad in bad_uploads(BUS)[:8]]
    mixed = [data for pair in zip(good * 2, bad, strict=True) for data in pair]
    answers = app.requests([("POST", "", {"content": data, "headers": JPEG}) for data in mixed])
    for answer, expected in zip(answers[::2], alone * 2, strict=True):
        found = boxes(answer)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert all(
            np.allclose(one, other, atol=1) for (_, one), (_, other) in zip(found, expected, strict=True)
        )


def test_render_draws_a_picture_of_the_same_size(app: Asgi[DetectionService]) -> None:
    """The rendered picture is a JPEG of the image's size that differs where the boxes are."""
    answer = app.request("POST", "/render", content=BUS, headers=JPEG)
    assert answer.headers["content-type"] == "image/jpeg"
    drawn, plain = Image.open(BytesIO(answer.content)), Image.open(BytesIO(BUS))
    assert drawn.size == plain.size
    x1, y1, _, _ = dict(boxes(detect(app)))["bus"]
    corner = (int(x1), int(y1) - 20, int(x1) + 60, int(y1) + 20)
    assert np.abs(np.asarray(drawn.crop(corner), int) - np.asarray(plain.crop(corner), int)).mean() > 20


def test_any_image_that_is_taken_can_be_drawn(app: Asgi[DetectionService]) -> None:
    """The longest side that a JPEG may have is drawn; one pixel more is refused by both routes."""
    for width, status in ((65_500, 200), (65_501, 413)):
        out = BytesIO()
        Image.new("L", (width, 8), 128).save(out, format="PNG")
        for path in ("", "/render"):
            answer = app.request("POST", path, content=out.getvalue(), headers={"Content-Type": "image/png"})
            assert answer.status_code == status


def test_a_default_may_be_sent(app: Asgi[DetectionService]) -> None:
    """`heatmap=false` is what nobody asks for; `true` is refused by name until maps are served."""
    for value, status in (("false", 200), ("true", 422)):
        answer = app.request("POST", f"/render?heatmap={value}", content=BUS, headers=JPEG)
        assert answer.status_code == status


@pytest.mark.parametrize("charset", ["undefined", "no-such-thing", "idna"])
def test_an_odd_charset_is_the_clients_fault(app: Asgi[DetectionService], charset: str) -> None:
    """A form in a charset that cannot be read is a 4xx or is read all the same, never a 500."""
    kind = f"multipart/form-data; boundary=frontier; charset={charset}"
    answer = app.request("POST", content=form("file", BUS), headers={"Content-Type": kind})
    assert answer.status_code in {200, 400, 422}


def test_limits_change_while_running(app: Asgi[DetectionService]) -> None:
    """A lower pixel limit refuses the next image, and the old one takes it again."""
    before = app.service.tunables
    app.service.reconfigure(DetectionTunables(max_image_pixels=1000))
    assert detect(app).status_code == 413
    app.service.reconfigure(before)
    assert detect(app).status_code == 200


def test_over_the_deadline_is_504(app: Asgi[DetectionService]) -> None:
    """A request that is not answered by its deadline gets a JSON 504."""
    before = app.service.tunables
    app.service.reconfigure(DetectionTunables(admission=Admitting(deadline_s=0.001)))
    answer = detect(app)
    app.service.reconfigure(before)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_health_tells_what_is_wrong(app: Asgi[DetectionService]) -> None:
    """The health route is 200 while the replica works, and 503 with the reason once it is closed."""
    assert app.request("GET", "/healthz").json() == {"status": "ok"}
    other = Asgi(lambda: DetectionService(DetectionArgs(device="cpu")), "/detect")
    other.service.close()
    answer = other.request("GET", "/healthz")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "shutting down")
    assert detect(other).status_code == 503
    other.close()


def test_the_interface_is_documented(app: Asgi[DetectionService]) -> None:
    """OpenAPI lists the routes, and the upload as a body."""
    paths = app.request("GET", "/openapi.json").json()["paths"]
    assert set(paths) == {"/", "/render", "/healthz"}
    assert "image/jpeg" in paths["/"]["post"]["requestBody"]["content"]
