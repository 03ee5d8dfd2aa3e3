"""What all sections of the configuration share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Dtype = Literal["auto", "float32", "bfloat16"]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Scores = Literal["whole distribution", "listed tokens", "chosen tokens", "sampled token"]
"""The log-probabilities that a loss needs from a teacher at each token: of all tokens, of the teacher's most
likely tokens, of tokens that the student chooses, or of the sampled token."""
OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
"""Lets a list of texts be given as a single text, in a file and on the command line."""


class Section(BaseModel):
    """A frozen group of keys; unknown keys and NaN are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_flag(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` and `false` for a number: Python would take them as 1 and 0."""
        if isinstance(value, bool) and not _takes_flags(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"is {str(value).lower()}, which is not a value of this key")
        return value

    @field_validator("*")
    @classmethod
    def _can_be_written_down(cls, value: Any) -> Any:
        """Refuse integers beyond 64 bits, and half of a surrogate pair, which JSON can spell."""
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and abs(item) >= 2**63:
                raise ValueError("does not fit into 64 bits")
            if isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
                raise ValueError("is not valid Unicode")
        return value


def _takes_flags(annotation: Any) -> bool:
    return annotation is bool or any(map(_takes_flags, get_args(annotation)))
