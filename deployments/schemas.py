"""The wire: what clients send and receive. Changed only by adding."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

INT64 = 2**63
# Below this, nearly every anchor is a box, and NMS works for seconds on noise.
MIN_CONFIDENCE = 0.001
MAX_LIST = 10_000

Id = Annotated[int, Field(strict=True, ge=-INT64, lt=INT64)]
Pixel = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Wire(BaseModel):
    """Unknown fields are refused by name: a misspelt one would otherwise change nothing, silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Origin(Wire):
    """Where a request came from; kept with its record, and what drift can be broken down by."""

    source: str | None = Field(
        None, max_length=64, pattern=r"^[\w.:/-]+$", description="camera or tenant", examples=["gate-7"]
    )
    tags: str | None = Field(
        None,
        max_length=512,
        pattern=r"^[\w.:/-]+=[\w.:/ -]+(,[\w.:/-]+=[\w.:/ -]+)*$",
        description="k=v,k=v",
        examples=["site=north,shift=night"],
    )


class Feedback(Wire):
    """Body of `POST /detect/inferences/{id}/feedback`: what is really in the image."""

    correct: bool = Field(strict=True, description="whether the answer is right as it is")
    boxes: list["TrueBox"] | None = Field(None, max_length=1000, description="all objects that are there")
    note: str | None = Field(None, max_length=2000)


class TrueBox(Wire):
    """One object that is there; corners in pixels of the image as sent."""

    class_id: int = Field(strict=True, ge=0, lt=2**31)
    x1: Pixel
    y1: Pixel
    x2: Pixel
    y2: Pixel

    @field_validator("x2", "y2")
    @classmethod
    def _has_area(cls, far: float, info: ValidationInfo) -> float:
        near = info.data.get(f"{str(info.field_name)[0]}1")
        if near is not None and far <= near:
            raise PydanticCustomError("no_area", "a box ends beyond where it begins")
        return far


class Clicked(Wire):
    """Body of `POST /recommend/inferences/{id}/feedback`: which films of the answer the user chose."""

    clicked: list[Id] = Field(max_length=MAX_LIST, description="empty: none of them")


class Interaction(Wire):
    """One of the body of `POST /recommend/interactions`: what a user did with a film, known or new."""

    user_id: Id
    movie_id: Id
    rating: float = Field(allow_inf_nan=False, ge=-1e6, le=1e6)
    ts: AwareDatetime | None = Field(None, description="RFC 3339 with its zone; default now")


class Interactions(RootModel[list[Interaction]]):
    """Body of `POST /recommend/interactions`."""

    root: list[Interaction] = Field(min_length=1, max_length=MAX_LIST)


class Accepted(Wire):
    """Answer of whatever is kept: it is on the disk."""

    accepted: int


class DetectQuery(Origin):
    """Query of `POST /detect`."""

    confidence: float = Field(
        0.25, ge=MIN_CONFIDENCE, le=1, allow_inf_nan=False, description="least confidence of a box"
    )
    iou: Fraction = Field(0.7, description="boxes of one class that overlap by more are one object")
    max_detections: int = Field(300, ge=1, le=1000)
    classes: str | None = Field(
        None, max_length=4096, description="class names or ids, separated by commas; default all"
    )


class RenderQuery(DetectQuery):
    """Query of `POST /detect/render`."""

    heatmap: bool = Field(False, description="maps are not served yet: only false is taken")

    @field_validator("heatmap")
    @classmethod
    def _not_yet(cls, heatmap: bool) -> bool:
        if heatmap:
            raise PydanticCustomError("not_served", "maps are not served yet; leave it out")
        return heatmap


class Model(Wire):
    """Which model answered."""

    name: str
    version: str


class ImageSize(Wire):
    """Pixels of the image as sent, after EXIF orientation."""

    width: int
    height: int


class Box(Wire):
    """Corners in pixels of the image as sent."""

    x1: float
    y1: float
    x2: float
    y2: float


class Detection(Wire):
    """One object found."""

    class_id: int
    class_name: str
    confidence: float
    box: Box


class DetectAnswer(Wire):
    """Answer of `POST /detect`, most confident first."""

    inference_id: str
    model: Model
    image: ImageSize
    detections: list[Detection]


class RecommendBody(Origin):
    """Body of `POST /recommend`."""

    # What the interactive documentation sends when nobody edits it; without it, random text.
    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": 1, "n": 10, "ranked_movies": []}]})

    user_id: Id
    n: int = Field(10, strict=True, ge=1, le=1000, description="films wanted; fewer if there are no more")
    ranked_movies: list[Id] = Field([], max_length=MAX_LIST, description="ranked before: left out")
    candidates: list[Id] | None = Field(None, max_length=MAX_LIST, description="only these are ordered")
    exclude_seen: bool = Field(True, strict=True, description="leave out what the user has rated")
    explain: Literal[False] = Field(False, description="rationales are not served yet")


class Item(Wire):
    """One recommended film; `score` compares within one answer only."""

    movie_id: int
    title: str
    score: float
    rank: int


class RecommendAnswer(Wire):
    """Answer of `POST /recommend`, best first."""

    inference_id: str
    model: Model
    user_id: int
    answered_by: Literal["model", "popularity"]
    items: list[Item]


def body_doc(content: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI part for a body that is read by hand, so that its size can be bounded."""
    return {"requestBody": {"required": True, "content": content}}
