"""What all sections of the configuration share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Dtype = Literal["auto", "float32", "bfloat16"]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
"""Of a list of texts: one text is a list of one, in a file as on the command line."""


class Section(BaseModel):
    """A frozen group of keys; unknown keys and NaN are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )
