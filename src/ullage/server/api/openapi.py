"""OpenAPI 3.1 of `/api/v1`, from the routes' table and the types of their documents.

Imported when the description is asked for, or written to docs/reference/openapi.json.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ullage.accounts.names import ACCOUNT_NAME
from ullage.cleanup.job.documents import PlanJob, PurgeJob, RetentionJob
from ullage.documents import SCHEMAS, UNSET, Document, schemas
from ullage.oci import errors
from ullage.oci.errors import RegistryError
from ullage.server.http import errors as http_errors
from ullage.server.http.operations import Operation, Parameter
from ullage.server.http.permissions import Audience
from ullage.server.http.routes import Route
from ullage.usage.images import ImageEntry
from ullage.usage.usage import Entry

JSON = dict[str, Any]


class Error(Document, frozen=True):
    """What was refused, and why: `code` for programs, `message` for people, `detail` has facts."""

    code: str
    message: str
    detail: Any = UNSET


class Errors(Document, frozen=True):
    """distribution-spec, "Error Codes"."""

    errors: list[Error]


# One of several, where a document says so (documents.any_of).
_ALTERNATIVES = (PurgeJob, PlanJob, RetentionJob, Entry, ImageEntry)
_ANYWHERE = (
    errors.Unsupported,
    errors.Unauthorized,
    errors.Denied,
    errors.TooManyRequests,
    errors.Unavailable,
    http_errors.UriTooLong,
    http_errors.EncodingUnsupported,
    http_errors.HeadersTooLarge,
)
_OF_VALUES = (errors.ValueInvalid, errors.NameInvalid, errors.DigestInvalid, errors.TagInvalid)
_OF_QUERIES = (*_OF_VALUES, errors.PaginationNumberInvalid, errors.PlanInvalid)
_OF_BODIES = (
    *_OF_VALUES,
    errors.PlanInvalid,
    errors.SizeInvalid,
    http_errors.FormTooLarge,
    http_errors.MediaTypeUnsupported,
    http_errors.BodyTimeout,
)
_ADMINISTRATORS = "For administrators; a token takes the scope `registry:admin:*`."
_WITH_ACCOUNTS = " Refused with 403 where no accounts are asked for."
_SOURCE = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}
_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_ACCOUNT = {"type": "string", "pattern": f"^{ACCOUNT_NAME.pattern}$"}
_PATH_SCHEMAS = {
    "digest": {"type": "string", "pattern": "^sha(256|512):[0-9a-f]+$"},
    "user": _ACCOUNT,
    "token": _ACCOUNT,
    "scope_map": _ACCOUNT,
    "source": _SOURCE,
    "key": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
_HEADERS = {
    "Location": "The path of what was made.",
    "Link": "The next page (RFC 8288), if there is one.",
}


def describe(routes: Iterable[Route]) -> JSON:
    """The description of these routes, which all say what they take and answer."""
    described = [(route, route.operation) for route in routes if route.operation is not None]
    paths: dict[str, JSON] = {}
    for route, operation in described:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, operation)
    kinds = {
        kind
        for _, each in described
        for kind in (*each.answers.values(), *each.request)
        if kind is not None
    }
    named = schemas([*sorted(kinds, key=lambda kind: kind.__name__), *_ALTERNATIVES, Errors])
    modules = sorted({route.handler.__module__ for route, _ in described})
    found: JSON = {
        "openapi": "3.1.0",
        "info": {
            "title": "Ullage",
            "version": "1",
            "summary": "What a container registry says about the space it gives back.",
            "description": "Beside these routes the registry speaks OCI Distribution 1.1 and the "
            "data plane of Azure Container Registry; docs/reference/api.md has all of them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        # A registry without accounts asks for none.
        "security": [{"basic": []}, {"bearer": []}, {}],
        "tags": [{"name": _tag(module), "description": _first_line(module)} for module in modules],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(named.items())),
            "responses": _shared(paths),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }
    return _renamed(found)


def _shared(paths: dict[str, JSON]) -> JSON:
    """Take the errors out of the operations, which are mostly alike; they refer to them."""
    shared: JSON = {}
    for path in paths.values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                codes = response.pop("codes", None)
                if codes is not None:
                    name = f"{status}.{'.'.join(codes)}"
                    shared[name] = response
                    operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    return dict(sorted(shared.items()))


def _renamed(found: JSON) -> JSON:
    """Without the word Document, which tells types apart that a reader never sees beside."""
    kept: Mapping[str, JSON] = found["components"]["schemas"]
    names = {name: name.removesuffix("Document") for name in kept}
    assert len(set(names.values())) == len(names), "two documents would have one name"

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rename(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [rename(each) for each in value]
        if isinstance(value, str) and value.startswith(SCHEMAS):
            return SCHEMAS + names[value.removeprefix(SCHEMAS)]
        return names.get(value, value) if isinstance(value, str) else value

    renamed: JSON = rename(found)
    renamed["components"]["schemas"] = {names[name]: rename(each) for name, each in kept.items()}
    return renamed


def _operation(route: Route, operation: Operation) -> JSON:
    handler = route.handler
    placeholders = re.findall(r"\{(\w+)\}", route.path)
    rights = ", ".join(route.permission.actions)
    found: JSON = {
        "operationId": handler.__name__,
        "tags": [_tag(handler.__module__)],
        "summary": (handler.__doc__ or "").partition("\n")[0],
        "parameters": [_in_path(name) for name in placeholders]
        + [_in_query(parameter) for parameter in operation.query],
        "responses": _responses(operation, writes=route.method != "GET"),
    }
    if route.permission.audience is Audience.ADMINISTRATORS:
        found["description"] = _ADMINISTRATORS + (
            _WITH_ACCOUNTS if route.permission.takes_accounts else ""
        )
    elif rights:
        found["description"] = f"Takes {rights} on all repositories (`*`)."
    if operation.request:
        found["requestBody"] = _body(operation)
    return found


def _in_path(name: str) -> JSON:
    schema = _PATH_SCHEMAS.get(name, _ID)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(parameter: Parameter) -> JSON:
    found: JSON = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "required": parameter.required,
        "schema": parameter.schema or {"type": "string"},
    }
    return found | ({} if parameter.example is None else {"example": parameter.example})


def _body(operation: Operation) -> JSON:
    content: JSON = {"schema": _any_of(operation.request)}
    if operation.example is not None:
        content["example"] = operation.example
    # No body is an empty object: no member of any request has to be there.
    return {"required": False, "content": {"application/json": content}}


def _any_of(kinds: Sequence[type]) -> JSON:
    references = [{"$ref": f"{SCHEMAS}{kind.__name__}"} for kind in kinds]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _responses(operation: Operation, *, writes: bool) -> JSON:
    found: JSON = {}
    for status, kind in sorted(operation.answers.items()):
        if kind is None:
            found[str(status)] = {"description": "Done."}
            continue
        found[str(status)] = {
            "description": _first_line(kind),
            "content": {"application/json": {"schema": _any_of([kind])}},
        }
        if operation.headers:
            found[str(status)]["headers"] = {
                name: {"description": _HEADERS[name], "schema": {"type": "string"}}
                for name in operation.headers
            }
    by_status: dict[int, dict[str, str]] = {}
    for error in (*_errors(operation), *((errors.StorageFull,) if writes else ())):
        status = http_errors.status_of(error.__new__(error))
        by_status.setdefault(status, {}).setdefault(error.code, error.message)
    by_status[500] = {"UNKNOWN": "internal error; `detail.request_id` finds it in the log"}
    for status, codes in sorted(by_status.items()):
        found[str(status)] = {
            "codes": [*codes],
            "description": "; ".join(f"{code}: {message}" for code, message in codes.items()),
            "content": {"application/json": {"schema": _any_of([Errors])}},
        }
    return found


def _errors(operation: Operation) -> list[type[RegistryError]]:
    found: list[type[RegistryError]] = [*_ANYWHERE, *operation.errors]
    found += _OF_QUERIES if operation.query else _OF_VALUES
    return [*found, *(_OF_BODIES if operation.request else ())]


def _tag(module: str) -> str:
    return module.rpartition(".")[2]


def _first_line(of: str | type) -> str:
    """Of a module by its name, or of a type."""
    text = sys.modules[of].__doc__ if isinstance(of, str) else of.__doc__
    return (text or "").strip().partition("\n")[0]
