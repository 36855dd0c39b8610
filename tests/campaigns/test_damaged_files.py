"""Campaigns of generated damage to everything that is read from a user's files: none is a traceback, a hang or silent.

2,000 inputs each: pytest tests/campaigns/test_damaged_files.py -m campaign -s. CAMPAIGN_SHARE=0.1 makes a tenth of
them, CAMPAIGN_SEED=1 others. What a campaign found has a test of its own beside the tests of what it was found in.
"""

from __future__ import annotations

import os

import pytest

from campaigns import damaged_annotations, damaged_media, damaged_tokenizers

CAMPAIGNS = (
    damaged_annotations.vast_annotations,
    damaged_annotations.msrvtt_annotations,
    damaged_annotations.own_tables,
    damaged_media.pictures,
    damaged_media.media,
    damaged_media.archives,
    damaged_media.ur_fall_tables,
    damaged_media.ur_fall_archives,
    damaged_tokenizers.tokenizers,
)
INPUTS, FEW = 2000, 20
named = pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.__name__)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@named
def test_every_generated_input_is_read_or_refused_in_one_line(campaign, tmp_path):
    count = max(1, round(INPUTS * float(os.environ.get("CAMPAIGN_SHARE", "1"))))
    tally = campaign(count, int(os.environ.get("CAMPAIGN_SEED", "0")), tmp_path)
    print(f"\n{tally.line()}")
    assert not tally.faults, tally.told()
    assert tally.inputs == count == tally.refused + tally.accepted


@pytest.mark.slow
@named
def test_some_generated_inputs_are_read_or_refused_in_one_line(campaign, tmp_path):
    tally = campaign(FEW, 11, tmp_path)
    assert not tally.faults, tally.told()
    assert tally.refused > 0
