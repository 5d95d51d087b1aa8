"""The records of the package are frozen, so that their holders can share them."""

import importlib
import pkgutil
from typing import Any

import flax.linen as nn
import msgspec

import rnnmnist


def test_dataclasses_and_structs_are_frozen() -> None:
    found: dict[type, bool] = {}
    for module in pkgutil.walk_packages(rnnmnist.__path__, "rnnmnist."):
        if module.name == "rnnmnist.__main__":
            continue  # it runs on import
        value: Any
        for value in vars(importlib.import_module(module.name)).values():
            if not isinstance(value, type) or value.__module__ != module.name:
                continue
            own = "__dataclass_params__" in vars(value)  # not those of a base class
            if own and not issubclass(value, nn.Module):
                found[value] = vars(value)["__dataclass_params__"].frozen
            elif issubclass(value, msgspec.Struct):
                found[value] = value.__struct_config__.frozen
    assert len(found) > 15
    assert all(found.values())
