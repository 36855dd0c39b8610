"""The condition in which messages are compressed on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mlecs_bench.doors.hookspecs import Change
from mlecs_bench.doors.options import option
from mlecs_bench.errors import UsageError, check_choice
from mlecs_bench.plan.conditions_text import Written, headed

CompressionLaw = Literal["none", "fp16", "int8", "topk"]
"""How numbers travel: as they are, as half floats, as bytes on a scale, or the largest changes alone."""
CompressedDirection = Literal["both", "up", "down"]
"""Which messages are compressed: all, those of the devices (up), or those of the server (down)."""


@dataclass(frozen=True)
class Compression:
    """How messages travel (`mlecs_bench.federation.compression`). Integers and scalars are never changed.

    - none: as they are.
    - fp16: floating tensors as IEEE half floats; what lies above 65504 is refused.
    - int8: a floating tensor as whole numbers from -127 to 127 and one scale.
    - topk: of a floating tensor the share `keep` of numbers that differ most from what the receiver has; what is held
      back is sent when it has grown (error feedback). A tensor that the receiver has nothing of travels whole.
    """

    demands: ClassVar[tuple[Change, ...]] = ()
    law: CompressionLaw = option(
        "none",
        help="none, fp16, int8 or topk",
        source="int8: Jacob et al. 2018 (arXiv 1712.05877), symmetric; topk: EF21 (arXiv 2106.05203)",
    )
    keep: float = option(0.01, help="share of the numbers that topk sends", source="Lin et al. 2018 (arXiv 1712.01887)")
    direction: CompressedDirection = option("both", help="both, up or down", source="ours")

    def __post_init__(self) -> None:
        check_choice(self.law, CompressionLaw, "compression")
        check_choice(self.direction, CompressedDirection, "direction of compression")
        if not 0 < self.keep < 1:
            raise ValueError(f"the share that topk keeps must be above 0 and below 1, such as 0.01, got {self.keep}")
        usual = type(self)
        if self.law != "topk" and self.keep != usual.keep:
            raise ValueError(f"a share is kept by topk and by no other, such as topk:{self.keep}")
        if self.law == "none" and self.direction != usual.direction:
            raise ValueError(f"a direction needs a law, such as law=int8,direction={self.direction}")

    @classmethod
    def fields_of(cls, written: Written) -> Mapping[str, Any]:
        """Read ``int8``, ``topk:0.01,direction=up``, ``law=int8,direction=up``, or a mapping of the fields."""
        if isinstance(written, Mapping):
            return written
        head, pairs = headed(str(written), "compression")
        law, colon, keep = head.partition(":")
        if colon and law != "topk":
            raise UsageError(f"compression {law} takes no number, got '{head}'; a share is for topk, as in topk:0.01")
        return pairs | ({"law": law} if law else {}) | ({"keep": keep} if colon else {})

    def words(self) -> str:
        """Return how messages travel, such as "int8 messages up"."""
        share = f" {self.keep:g}" if self.law == "topk" else ""
        way = "" if self.direction == "both" else f" {self.direction}"
        return f"{self.law}{share} messages{way}"

    def check(self, n_devices: int, modalities: Sequence[str]) -> None:
        """Refuse nothing: messages can be compressed in any federation."""

    def covers(self, direction: Literal["down", "up"]) -> bool:
        """Say whether messages that go this way are compressed."""
        return self.law != "none" and self.direction in ("both", direction)
