"""The OpenAPI document of the JSON API, made of its endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sessions.web.api.endpoints import Endpoint
from sessions.web.models import Problem

_REFERENCE = "#/components/schemas/{model}"


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """OpenAPI 3.1. Every endpoint may also give a `Problem`."""
    known = list(endpoints)
    described = [model for one in known for model in (one.takes, one.gives) if model is not None]
    models: set[type[BaseModel]] = {Problem, *described}
    # What is sent and what is told are models of their own, so one mode describes each whole.
    named = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in named], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for one in known:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "warmline chat", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _operation(one: Endpoint) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", one.path)
    ]
    in_query = [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in one.query.items()
    ]
    done: dict[str, Any] = {"description": one.summary}
    if one.gives is not None:
        done["content"] = {"application/json": {"schema": _schema(one.gives)}}
    elif one.status != 204:
        done["content"] = {one.media_type: {"schema": {"type": "string"}}}
    problem = {
        "description": "What is wrong, and what to do",
        "content": {"application/problem+json": {"schema": _schema(Problem)}},
    }
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.handler.__name__,
        "parameters": in_path + in_query,
        "responses": {str(one.status): done, "default": problem},
    }
    if one.takes is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(one.takes)}}}
    return operation


def _schema(model: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}
