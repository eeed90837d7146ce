"""What tokens cost, as data: one YAML file. An error names file, line and field."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gateway.yaml_file import YamlFileError, read_yaml

MILLION = 1_000_000


class PriceError(Exception):
    """The prices cannot be used; the message names the setting, file, line and field."""


class Price(BaseModel):
    """Of a million tokens of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(0.0, ge=0, allow_inf_nan=False)
    output: float = Field(0.0, ge=0, allow_inf_nan=False)

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """What an answer costs."""
        return (input_tokens * self.input + output_tokens * self.output) / MILLION


class PriceFile(BaseModel):
    """The whole file. ``currency`` is for whoever reads it: the series carry no unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = ""
    models: dict[str, Price]


def read_prices(path: Path | None) -> dict[str, Price]:
    """The prices by model that are not 0; none without a file. Raises :class:`PriceError`."""
    if path is None:
        return {}
    try:
        prices = read_yaml(path, PriceFile).models
    except YamlFileError as error:
        raise PriceError(f"TIDEGATE_PRICE_FILE: {error}") from None
    return {model: price for model, price in prices.items() if price.input or price.output}
