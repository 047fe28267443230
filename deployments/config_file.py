"""Check a whole `serve_config.yaml` without starting anything.

`python -m deployments.config_file serve_config.yaml` prints what is wrong, key by key, and exits 1.
Ray ignores unknown keys at the top level and under `http_options` without a word; here they are errors.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from deployments.settings import (
    DetectionArgs,
    DetectionTunables,
    RecommendationArgs,
    RecommendationTunables,
    Settings,
)

KNOWN: dict[str, tuple[type[Settings], type[Settings]]] = {
    "deployments.detection:build": (DetectionArgs, DetectionTunables),
    "deployments.recommendation:build": (RecommendationArgs, RecommendationTunables),
}


def problems(text: str) -> list[str]:
    """Return what is wrong with the text of a Serve configuration, one sentence each."""
    from ray.serve.schema import HTTPOptionsSchema, ServeDeploySchema  # noqa: PLC0415  2 s, here only

    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(config, dict):
        return ["not a mapping: a Serve configuration has the key `applications`"]
    found = [
        *_unknown("", config, ServeDeploySchema),
        *_unknown("http_options.", config.get("http_options") or {}, HTTPOptionsSchema),
    ]
    found += _validate("", config, ServeDeploySchema)
    if not found:
        for application in config["applications"]:
            found += _application(application)
    return found


def _application(application: Mapping[str, Any]) -> Iterator[str]:
    name, path = application["name"], application["import_path"]
    if path not in KNOWN:
        return
    args, tunables = KNOWN[path]
    yield from _validate(f"{name}.args.", application.get("args") or {}, args)
    for deployment in application.get("deployments") or []:
        where = f"{name}.{deployment['name']}."
        yield from _validate(where + "user_config.", deployment.get("user_config") or {}, tunables)
        if "num_gpus" in (deployment.get("ray_actor_options") or {}):
            yield f"{where}ray_actor_options.num_gpus: set {name}.args.gpus_per_replica instead"


def _unknown(where: str, given: Mapping[str, Any], schema: type[BaseModel]) -> Iterator[str]:
    known = schema.model_fields
    for key in given:
        if key not in known:
            yield f"{where}{key}: unknown key; known are {', '.join(sorted(known))}"


def _validate(where: str, given: Mapping[str, Any], schema: type[BaseModel]) -> Iterator[str]:
    try:
        schema.model_validate(given)
    except ValidationError as error:
        for one in error.errors():
            key = ".".join(str(part) for part in one["loc"])
            yield f"{where}{key}: {one['msg']}" + (
                "" if one["type"] == "missing" else f", not {one['input']!r:.80}"
            )


def main(arguments: list[str]) -> int:
    """Check each file named; return the exit code."""
    wrong = 0
    for name in arguments or ["serve_config.yaml"]:
        for problem in problems(Path(name).read_text(encoding="utf-8")):
            wrong += 1
            sys.stderr.write(f"{name}: {problem}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
