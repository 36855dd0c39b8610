"""What was counted as text and as JSON: hand-made counts only."""

from __future__ import annotations

from hand_made import make_comm
from mlecs_bench.report.transmission import Counted, transmission_json, transmission_text


def counted(algo: str, share: float, rank: int = 8) -> Counted:
    comm = make_comm(3)
    ratios = {**comm["ratios"], "one_way": {"value": share, "definition": "the larger of both"}}
    return Counted(algo, {**comm, "ranks": {"d00": rank, "d01": rank}, "ratios": ratios})


ROWS = [counted("standalone", 0.0), counted("mine", 0.0123, rank=24), counted("other", 0.5)]


def test_volumes_are_per_device_and_round_by_direction_and_kind():
    # Two rounds: each device gets 3 broadcasts of 30 numbers and sends 2 times 20.
    row = ROWS[1]
    assert (row.sent("down"), row.sent("up"), row.sent("up", "lora"), row.sent("up", "fused")) == (45, 20, 20, 0)
    assert (row.labels, row.kinds) == (("mine", "3", "24"), ["fused", "lora"])


def test_the_text_holds_every_number_of_the_json_and_the_definitions():
    text = transmission_text(ROWS)
    for row in transmission_json(ROWS):
        for by_kind in row["params_per_device_and_round"].values():
            assert all(f"{value:,.0f}" in text for value in by_kind.values())
        assert all(f"{100 * value:.3f} %" in text for value in row["shares"].values())
    assert "- share (one way): the larger of both." in text
    assert "- share (full): everything." in text
    assert "says" not in text  # only a study says anything of volumes


def test_bars_are_as_long_as_their_shares_and_none_is_drawn_where_nothing_is_sent():
    block = transmission_text(ROWS).split("```")[1].strip().splitlines()[1:]
    assert [line.count("#") for line in block] == [0, 1, 40]
    assert "```" not in transmission_text(ROWS[:1])
