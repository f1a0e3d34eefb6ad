"""How experts are kept that do not all fit. The texts under the fields are the reference in docs/configuration.md."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema, core_schema

from triptych.config.section import Section
from triptych.core.errors import InvalidArgument
from triptych.core.sizes import SIZE_PATTERN
from triptych.experts.settings import (
    Auto,
    Budget,
    OffloadSettings,
    PolicyName,
    PredictorName,
    Rounding,
    Shares,
    format_budget,
    parse_budget,
)

_DEFAULT: Final = OffloadSettings(budget=Auto())


@dataclass(frozen=True, slots=True)
class BudgetText:
    """Annotation of a field that holds a `Budget` in the notation of `parse_budget`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validates by `parse_budget`."""
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(format_budget)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A number of bytes, or a text."""
        size = SIZE_PATTERN.removeprefix("^").removesuffix("$")
        pattern = rf"^(auto|\d{{1,3}}(\.\d{{1,3}})? ?%|{size})$"
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": pattern}]}

    def _validate(self, value: object) -> Budget:
        if isinstance(value, Budget):
            return value
        try:
            return parse_budget(value)
        except InvalidArgument as error:
            raise ValueError(error.message.removeprefix("experts.budget ")) from error


class ExpertsSpec(Section):
    """Memory for the experts of a mixture; the others are read from disk when a token needs them."""

    budget: Annotated[Budget, BudgetText()] | None = None
    """Memory of each rank that holds experts: a share of what all of its experts take, such as `50%`; a size; or
    `auto`: as much as this machine has to spare, and no limit where all of them fit. It takes at least the experts of
    one layer. Without it all are in memory, and the other keys mean nothing. Answers are the same with any budget."""
    policy: PolicyName = _DEFAULT.policy
    """Who stays: those used most, of which older uses count less (`lfu-decay`); used last (`lru`); those that an
    earlier run used most, for good (`static-hot`); or nobody, while the next layer's experts are read in their order
    (`ring`)."""
    prefetch: PredictorName = _DEFAULT.prefetch
    """Who is read before it is asked for: whom the next layer's router would choose now (`next-gate`), whom a
    predictor expects that `triptych experts train` has made (`route`), or nobody. It is given up where it does not
    pay, which `triptych status` says."""
    route: str | None = Field(default=None, min_length=1, validate_default=True)
    """File of that predictor."""
    shares: Shares = _DEFAULT.shares
    """How layers divide the budget: in proportion to their experts, more to the first ones (`shallow`), or as the
    last run needed it (`measured`)."""
    widen: int = Field(default=_DEFAULT.widen, ge=0, le=256)
    """Experts that `next-gate` asks for beside as many as a token uses."""
    speculation: float = Field(default=_DEFAULT.speculation, ge=0, le=1)
    """Share of the budget that may hold what was read in advance and nobody has asked for."""
    readers: int = Field(default=_DEFAULT.readers, ge=1, le=64)
    """Threads of a rank that read from disk; they hardly compute."""
    warm: bool = _DEFAULT.warm
    """What was needed most is remembered beside the packed file, and read first at the next start."""
    regroup: bool = _DEFAULT.regroup
    """Requests that need the same experts take turns with others, within a bound of fairness, where that reads less.
    With policy `lru`, on workers of one rank."""
    compact: bool = _DEFAULT.compact
    """Experts of bfloat16 are kept and read in twelve bits a weight, which loses nothing: a budget holds a third
    more of them. On CPUs, without `lossy`."""
    lossy: bool | Rounding = _DEFAULT.lossy
    """Experts that their layer does not keep are read rounded to eight bits (`int8`, which `true` means) or four
    (`int4`), and stay so while they stay: about half or a quarter of the bytes to read, and other answers. The budget
    holds no more of them."""

    @field_validator("route")
    @classmethod
    def _there(cls, route: str | None, info: ValidationInfo) -> str | None:
        if route is None and info.data.get("prefetch") == "route":
            raise ValueError("must name a file that `triptych experts train` has made, for prefetch: route")
        return route

    @field_validator("regroup")
    @classmethod
    def _follows_turns(cls, regroup: bool, info: ValidationInfo) -> bool:
        if regroup and info.data.get("policy") not in (None, "lru"):
            raise ValueError("needs policy: lru; the others keep who was needed most, whoever's turn it is")
        return regroup

    def offload(self) -> OffloadSettings | None:
        """The same for those who keep them; None keeps all in memory. The file is absolute, for workers elsewhere."""
        if self.budget is None:
            return None
        return OffloadSettings(
            budget=self.budget,
            policy=self.policy,
            prefetch=self.prefetch,
            shares=self.shares,
            compact=self.compact,
            lossy=self.lossy,
            regroup=self.regroup,
            readers=self.readers,
            widen=self.widen,
            speculation=self.speculation,
            route=Path(self.route).absolute() if self.route else None,
            warm=self.warm,
        )
