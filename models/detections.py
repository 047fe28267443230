"""What a detector found in one image."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Parallel arrays, one row an object, the most confident first.

    Attributes:
        class_id: `(n,) int32`, keys of the detector's `class_names`.
        confidence: `(n,) float32` in [0, 1], descending.
        boxes: `(n, 4) float32`, `x1 y1 x2 y2` in pixels of the upright image as sent,
            `0 <= x1 <= x2 <= width`, `0 <= y1 <= y2 <= height`.
    """

    class_id: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together.

        Raises:
            ValueError: The shapes differ from those above.
        """
        count = len(self.class_id)
        if self.class_id.shape != (count,) or self.confidence.shape != (count,):
            raise ValueError("class_id and confidence must be of shape (n,).")
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must be of shape ({count}, 4), not {self.boxes.shape}.")

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.class_id)
