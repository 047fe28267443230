"""`python -m tests.train_checkpoint FOLDER`: a detector of two classes, an epoch old, as FOLDER/own.pt.

Eight photographs with drawn squares and discs, from the default weights. It is no good detector; it is
a checkpoint with other classes, made the way users make theirs.
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np

CLASSES = {0: "square", 1: "disc"}
IMAGES = 8
SIDE = 160


def draw(folder: Path, random: np.random.Generator, index: int) -> None:
    """Write one labelled image: YOLO's `class cx cy w h`, as shares of the image."""
    image = random.integers(90, 130, (SIDE, SIDE, 3), np.uint8)
    lines = []
    for class_id in CLASSES:
        half = int(random.integers(12, 30))
        x, y = (int(v) for v in random.integers(half, SIDE - half, 2))
        if class_id == 0:
            cv2.rectangle(image, (x - half, y - half), (x + half, y + half), (20, 20, 230), -1)
        else:
            cv2.circle(image, (x, y), half, (230, 200, 20), -1)
        lines.append(f"{class_id} {x / SIDE} {y / SIDE} {2 * half / SIDE} {2 * half / SIDE}")
    cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
    (folder / "labels" / f"{index}.txt").write_text("\n".join(lines))


def main(folder: Path) -> None:
    """Draw, train, and leave the checkpoint."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(3)
    for index in range(IMAGES):
        draw(folder, random, index)
    names = "\n".join(f"  {class_id}: {name}" for class_id, name in CLASSES.items())
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames:\n{names}\n")
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true")
    from ultralytics.models import YOLO  # noqa: PLC0415  after its settings folder is named

    from models import artifacts  # noqa: PLC0415

    YOLO(str(artifacts.fetch("yolov8n"))).train(
        data=str(folder / "data.yaml"),
        epochs=1,
        imgsz=SIDE,
        batch=4,
        workers=0,
        device="cpu",
        amp=False,
        plots=False,
        val=False,
        project=str(folder),
        name="run",
    )
    (folder / "run" / "weights" / "last.pt").replace(folder / "own.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
