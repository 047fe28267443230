"""What the detector's answers say, as metrics."""

from collections import Counter
from collections.abc import Sequence

from telemetry import attributes, schema
from telemetry.instruments import Instruments, guarded

# A confidence costs about 0.4 us of CPU. Evenly spaced over the ranks, 50 keep the image's distribution.
CONFIDENCES = 50


class DetectionMetrics:
    """One per replica.

    Args:
        instruments: Of this process.
        classes: The allow-list of class names, at most 1000; anything else counts as `other`.
    """

    def __init__(self, instruments: Instruments, classes: Sequence[str]) -> None:
        self.strict = instruments.strict
        self._answers = instruments.series(schema.DETECTION_ANSWERS)
        self._empty = instruments.series(schema.DETECTION_EMPTY)
        self._objects = instruments.family(schema.OBJECTS, attributes.CLASS, classes)
        self._per_image = instruments.series(schema.OBJECTS_PER_IMAGE)
        self._confidence = instruments.series(schema.CONFIDENCE)

    @guarded
    def answered(self, classes: Sequence[str], confidences: Sequence[float]) -> None:
        """Record one answered image, by the detections at the default settings; not for probes.

        Args:
            classes: Name of each object's class.
            confidences: Of each, in [0, 1], in the same order, the most confident first.
        """
        self._answers.put(1)
        self._per_image.put(len(classes))
        if not classes:
            self._empty.put(1)
        for name, count in Counter(classes).items():
            self._objects.of(name).put(count)
        for confidence in evenly(confidences, CONFIDENCES):
            self._confidence.put(float(confidence))


def evenly(values: Sequence[float], at_most: int) -> Sequence[float]:
    """Return `values`, or `at_most` of them evenly spaced, the first and the last among them.

    Args:
        values: Any number.
        at_most: >= 2.
    """
    last = len(values) - 1
    if last < at_most:
        return values
    return [values[round(index * last / (at_most - 1))] for index in range(at_most)]
