"""What a failed deployment says: the exception's own words."""

import pytest

from launch.deploy import reason

BUILDER = """Deploying app 'recommendation' failed with exception:
Traceback (most recent call last):
  File "application_state.py", line 1843, in build_serve_application
    raise RuntimeError(err_str) from None
RuntimeError: Traceback (most recent call last):
  File "main.py", line 792, in model_validate
           ^^^^^^^^^^^
pydantic_core._pydantic_core.ValidationError: 1 validation error for RecommendationArgs
recommender.factorz
  Extra inputs are not permitted [type=extra_forbidden, input_value=1, input_type=int]
    For further information visit https://errors.pydantic.dev/2.14/v/extra_forbidden
"""
REPLICA = """The deployment failed to start 3 times in a row. Error:
  File "replica.py", line 2, in __init__
models.device.DeviceError: device is cuda, but there is none: set device to auto or cpu.
"""


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        pytest.param(
            {"message": BUILDER},
            "1 validation error for RecommendationArgs\nrecommender.factorz\n"
            "  Extra inputs are not permitted [type=extra_forbidden, input_value=1, input_type=int]",
            id="a builder's",
        ),
        pytest.param(
            {"message": "Failed to update.", "deployments": {"Detection": {"message": REPLICA}}},
            "device is cuda, but there is none: set device to auto or cpu.",
            id="a replica's",
        ),
        pytest.param({"message": "Killed."}, "Killed.", id="no exception"),
        pytest.param({}, "", id="nothing"),
    ],
)
def test_the_reason_is_the_exceptions_own_words(application: dict[str, object], expected: str) -> None:
    """Of Ray's message the exception's text is left, with the key that pydantic names; no traceback."""
    assert reason(application) == expected
