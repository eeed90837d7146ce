"""Quotas as data: one YAML file of classes (limits, and a place in Triton's queue), and what is different for a tenant.

Every field is declared here, once. An error names file, line and field.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.yaml_file import YamlFileError, read_yaml

Kind = Literal["requests_per_second", "concurrent_streams", "tokens_per_minute", "tokens_per_day"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 10**12
"""So that sums stay exact where numbers are doubles (Redis)."""
LOWEST_PRIORITY = 100


class QuotaError(Exception):
    """The quotas cannot be used; the message names file, line and field, or the setting."""


@dataclass(frozen=True)
class Limits:
    """What a tenant may use; None is without limit."""

    requests_per_second: int | None = None
    concurrent_streams: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None

    def values(self) -> tuple[int | None, ...]:
        """In the order of :data:`KINDS`."""
        return (self.requests_per_second, self.concurrent_streams, self.tokens_per_minute, self.tokens_per_day)


UNLIMITED = Limits()


class LimitsPart(BaseModel):
    """Limits; one that is not given, or null, is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_second: int | None = Field(default=None, ge=1, le=MOST)
    concurrent_streams: int | None = Field(default=None, ge=1, le=MOST)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=MOST)
    tokens_per_day: int | None = Field(default=None, ge=1, le=MOST)
    priority: int | None = Field(
        default=None, ge=1, le=LOWEST_PRIORITY, description="Triton's: 1 goes first; the model's default if not given."
    )


class TenantPart(LimitsPart):
    """A tenant's class, whatever its token says, and what is its own; null lifts the class's."""

    class_: str | None = Field(default=None, alias="class")


class QuotaFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str = Field(description="The class of a tenant that has none, or one that is not here.")
    classes: dict[str, LimitsPart] = Field(min_length=1)
    tenants: dict[str, TenantPart] = {}

    @model_validator(mode="after")
    def _known(self) -> QuotaFile:
        if self.default not in self.classes:
            raise ValueError(f"default names '{self.default}', which is no class")
        for tenant, part in self.tenants.items():
            if part.class_ is not None and part.class_ not in self.classes:
                raise ValueError(f"tenants.{tenant}.class names '{part.class_}', which is no class")
        return self

    def limits(self, tenant: str, tenant_class: str) -> Limits:
        """What counts for a tenant: the first half of its :meth:`terms`."""
        return self.terms(tenant, tenant_class)[0]

    def terms(self, tenant: str, tenant_class: str) -> tuple[Limits, int]:
        """What counts for a tenant, and its place in Triton's queue: 1 goes first, 0 is the model's default. The file's
        class comes before the token's, what is the tenant's own before both."""
        own = self.tenants.get(tenant)
        name = own.class_ if own is not None and own.class_ is not None else tenant_class
        values: dict[str, int | None] = (self.classes.get(name) or self.classes[self.default]).model_dump()
        if own is not None:
            values |= own.model_dump(exclude_unset=True, exclude={"class_"})
        priority = values.pop("priority")
        return Limits(**values), priority or 0


def read_quotas(path: Path) -> QuotaFile:
    """Read and check a file of quotas. Raises :class:`QuotaError`."""
    try:
        return read_yaml(path, QuotaFile)
    except YamlFileError as error:
        raise QuotaError(str(error)) from None
