"""Check a whole `serve_config.yaml` without starting anything.

`python -m deployments.config_file serve_config.yaml` prints what is wrong, key by key, and exits 1.
Ray ignores unknown keys of its own schemas without a word, and takes its defaults; here they are errors.
"""

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Ours:
    """One of our applications: the name of its deployment, and the schemas of what a user tunes."""

    deployment: str
    args: type[Settings]
    tunables: type[Settings]


KNOWN = {
    "deployments.detection:build": _Ours("Detection", DetectionArgs, DetectionTunables),
    "deployments.recommendation:build": _Ours("Recommendation", RecommendationArgs, RecommendationTunables),
}
# An import path that begins like this is meant to be one of ours.
OUR_MODULES = "deployments."


class _NoDuplicates(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"the key {twice[0]!r} stands twice,{node.start_mark}")
        return super().construct_mapping(node, deep)


def problems(text: str) -> list[str]:
    """Return what is wrong with the text of a Serve configuration, one sentence each."""
    from ray.serve.schema import HTTPOptionsSchema, ServeDeploySchema  # noqa: PLC0415  2 s, here only

    try:
        config = yaml.load(text, _NoDuplicates)  # noqa: S506  a safe loader
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(config, dict):
        return ["not a mapping: a Serve configuration has the key `applications`"]
    http = _mapping(config.get("http_options"))
    found = [*_unknown("", config, ServeDeploySchema), *_unknown("http_options.", http, HTTPOptionsSchema)]
    port = http.get("port", 8000)
    if not isinstance(port, int) or not 0 < port < 65536:
        found.append(f"http_options.port: {port!r} is no port; ports go from 1 to 65535")
    if not config.get("applications"):
        found.append("applications: there is none")
    found += _unknown_inside(config)
    found += _validate("", config, ServeDeploySchema)
    if not found:
        for application in config["applications"]:
            found += _application(application)
    return found


def _unknown_inside(config: Mapping[str, Any]) -> Iterator[str]:
    """Ray drops a misspelt key of an application or a deployment, and goes on with its default."""
    from ray.serve.config import AutoscalingConfig  # noqa: PLC0415
    from ray.serve.schema import (  # noqa: PLC0415
        DeploymentSchema,
        RayActorOptionsSchema,
        ServeApplicationSchema,
    )

    inner: dict[str, type[BaseModel]] = {
        "autoscaling_config": AutoscalingConfig,
        "ray_actor_options": RayActorOptionsSchema,
    }
    for application in _mappings(config.get("applications")):
        name = application.get("name", "applications")
        yield from _unknown(f"{name}.", application, ServeApplicationSchema)
        for deployment in _mappings(application.get("deployments")):
            where = f"{name}.{deployment.get('name', 'deployments')}."
            yield from _unknown(where, deployment, DeploymentSchema)
            for key, schema in inner.items():
                yield from _unknown(f"{where}{key}.", _mapping(deployment.get(key)), schema)


def _application(application: Mapping[str, Any]) -> Iterator[str]:
    name, path = application["name"], application["import_path"]
    if path not in KNOWN:
        if path.startswith(OUR_MODULES):
            yield f"{name}.import_path: there is no {path}; ours are {', '.join(KNOWN)}"
        return
    ours = KNOWN[path]
    yield from _validate(f"{name}.args.", application.get("args") or {}, ours.args)
    for deployment in application.get("deployments") or []:
        where = f"{name}.{deployment['name']}."
        if deployment["name"] != ours.deployment:
            yield f"{name}.deployments: {path} has no {deployment['name']!r}, only {ours.deployment!r}"
        yield from _validate(where + "user_config.", deployment.get("user_config") or {}, ours.tunables)
        if "num_gpus" in (deployment.get("ray_actor_options") or {}):
            yield f"{where}ray_actor_options.num_gpus: set {name}.args.gpus_per_replica instead"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _unknown(where: str, given: Mapping[str, Any], schema: type[BaseModel]) -> Iterator[str]:
    for key in given:
        if key not in schema.model_fields:
            yield f"{where}{key}: {_unknown_key(str(key), schema)}"


def _unknown_key(key: str, schema: type[BaseModel]) -> str:
    known = sorted(schema.model_fields)
    close = difflib.get_close_matches(key, known, 1)
    return "unknown key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}")


def _validate(where: str, given: Mapping[str, Any], schema: type[BaseModel]) -> Iterator[str]:
    try:
        schema.model_validate(given)
    except ValidationError as error:
        for one in error.errors():
            key = ".".join(str(part) for part in one["loc"])
            yield f"{where}{key}: {_said(one, schema)}"


def _said(error: Any, schema: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), _schema_at(schema, error["loc"][:-1]))
    return str(error["msg"]) + ("" if error["type"] == "missing" else f", not {error['input']!r:.80}")


def _schema_at(schema: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    for part in path:
        field = schema.model_fields.get(str(part))
        inner = None if field is None else field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        schema = inner
    return schema


def main(arguments: list[str]) -> int:
    """Check each file named; return the exit code."""
    wrong = 0
    for name in arguments or ["serve_config.yaml"]:
        if not Path(name).is_file():
            sys.stderr.write(f"{name} does not exist.\n")
            return 1
        for problem in problems(Path(name).read_text(encoding="utf-8")):
            wrong += 1
            sys.stderr.write(f"{name}: {problem}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
