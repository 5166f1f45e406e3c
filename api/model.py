"""ECS's own service model, as botocore ships it: which operations there are, and what each holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel

from api.wire import TARGET_PREFIX


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the API. ``input`` and ``output`` are botocore's shapes; None where there is nothing."""

    name: str
    input: Any
    output: Any


@cache
def operations() -> Mapping[str, Operation]:
    """Return every operation that ECS has, by name."""
    described = Loader().load_service_model("ecs", "service-2", api_version="2014-11-13")
    model = ServiceModel(described, "ecs")
    if model.metadata["targetPrefix"] != TARGET_PREFIX:
        raise RuntimeError(f"botocore's model of ECS has the target prefix {model.metadata['targetPrefix']}")
    found = {}
    for name in model.operation_names:
        operation = model.operation_model(name)
        found[name] = Operation(name, operation.input_shape, operation.output_shape)
    return found
