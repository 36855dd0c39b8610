"""The synthetic clips: what each modality shows, disjoint pools, the same numbers every time, the prepared table."""

import hashlib
import itertools
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from laws import for_all
from mlecs_bench.api import DataError, DataRequest, rng
from mlecs_bench.data.samples import Samples
from mlecs_plugins.datasets import vast
from mlecs_plugins.datasets.vast import captions, signals, synthetic
from mlecs_plugins.datasets.vast.diagnose import slot_scores
from mlecs_plugins.datasets.vast.words import FILLER_IDS, REDUNDANCY, SHOWN_BY, SLOT_NAMES, SLOTS, SUBTITLE_IDS
from mlecs_plugins.datasets.vast.words import SUBTITLE_WORDS as WORDS

DRAW = {"audio": signals.draw_audio, "subtitle": signals.draw_subtitle, "vision": signals.draw_vision}


@pytest.fixture(scope="module")
def clips():
    return synthetic.benchmark(300)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    start = time.process_time()
    result = vast.prepare(DataRequest(None, cache))
    return result, cache, time.process_time() - start


def slot_columns(slots):
    return {f"slot_{name}": [SLOTS[name][v][0] for v in slots[name]] for name in SLOT_NAMES}


def combinations(slots):
    return set(zip(*(slots[name].tolist() for name in SLOT_NAMES), strict=True))


def test_the_benchmark_is_the_same_every_time(clips):
    again = synthetic.benchmark(300)
    assert again.summaries == clips.summaries
    assert all(np.array_equal(again.inputs[m], clips.inputs[m]) for m in DRAW)


def test_a_changed_generator_needs_a_new_version(clips):
    made = "\n".join(clips.summaries).encode() + clips.inputs["subtitle"].tobytes()
    assert (synthetic.VERSION, hashlib.sha256(made).hexdigest()[:16]) == ("4", "1c3d8d95ca0b44e6")


@for_all("modality", synthetic.MODALITIES)
def test_inputs_have_the_shape_and_dtype_of_the_manifest(clips, modality):
    values = clips.inputs[modality.name]
    assert values.shape == (300, *modality.shape)
    assert values.dtype == modality.dtype


@for_all("modality", DRAW)
def test_a_modality_shows_its_own_slots_and_nothing_of_the_others(clips, modality):
    base = DRAW[modality](clips.slots, rng(5, "x"))
    for name in SLOT_NAMES:
        changed = {**clips.slots, name: (clips.slots[name] + 1) % len(SLOTS[name])}
        same = np.array_equal(DRAW[modality](changed, rng(5, "x")), base)
        assert same == (name not in SHOWN_BY[modality]), name


def test_most_slots_are_shown_by_two_or_three_modalities_and_every_slot_by_one():
    shown = Counter(name for names in SHOWN_BY.values() for name in names)
    for n, count in enumerate(("one", "two", "three"), start=1):
        assert REDUNDANCY[count] == tuple(name for name in SLOT_NAMES if shown[name] == n)
    assert sorted(itertools.chain(*REDUNDANCY.values())) == sorted(SLOT_NAMES) == sorted(shown)
    assert [len(names) for names in SHOWN_BY.values()] == [4, 6, 5]
    assert (len(REDUNDANCY["two"]), len(REDUNDANCY["three"])) == (5, 1), "six of eight, as the card says"


@pytest.fixture(scope="module")
def shown():
    """Modality, slot → which of 1,500 clips show it: another value of the slot would have given another input."""
    slots = synthetic.draw_slots(rng(6, "shown"), 1_500, for_pool=False)
    base = synthetic.draw_inputs(slots, synthetic.DATA_SEED, "clips")
    found = {}
    for modality, name in ((m, name) for m, names in SHOWN_BY.items() for name in names):
        other = {**slots, name: (slots[name] + 1) % len(SLOTS[name])}
        values = DRAW[modality](other, rng(synthetic.DATA_SEED, "vast", "clips", modality))
        found[modality, name] = (values != base[modality]).reshape(len(values), -1).any(axis=1)
    return found


def test_pictures_leave_every_slot_out_in_three_tenths_of_the_clips_and_sound_in_a_fifth(shown):
    there_of = {"vision": 0.7, "audio": 0.8}
    assert pytest.approx(there_of) == {modality: 1 - share for modality, share in signals.HIDDEN.items()}
    for (modality, name), there in shown.items():
        if modality != "subtitle":
            expected = there_of[modality]
            assert scipy.stats.binomtest(int(there.sum()), len(there), expected).pvalue > 1e-4, (modality, name)


def test_a_subtitle_leaves_a_slot_out_where_none_of_its_words_is_a_true_hint(shown):
    for name, share in signals.WORD_SHARES.items():
        hint = share * (1 - signals.WORD_CONFUSION)
        expected = np.mean([1 - (1 - hint) ** n for n in range(12, 25)])
        there = shown["subtitle", name]
        assert scipy.stats.binomtest(int(there.sum()), len(there), expected).pvalue > 1e-4, name


def test_what_a_clip_leaves_out_of_one_slot_says_nothing_of_another_slot_or_modality(shown):
    """Words of a subtitle share its length and take each other's places, so its own slots are not held against it."""
    pairs = [(one, other) for one, other in itertools.combinations(shown, 2) if not one[0] == other[0] == "subtitle"]
    assert len(pairs) == 15 * 14 // 2 - 15
    for one, other in pairs:
        correlation = np.corrcoef(shown[one], shown[other])[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(len(shown[one])), (one, other)


def test_every_value_of_a_slot_looks_or_sounds_different_and_so_does_none():
    tables = {
        "object": signals.SHAPES, "colour": signals.COLOURS, "action": signals.MOTIONS, "tone": signals.TINTS,
    }  # fmt: skip  # slot → what shows it in pictures
    for name, table in tables.items():
        assert len(set(table)) == len(table) == len(SLOTS[name]) + 1, name
    assert len(set(signals.STEP_BANDS)) == len(SLOTS["action"])
    values = range(len(SLOTS["sound"]) + 1)
    events = {signals._event(value).tobytes() for value in values}
    assert len(events) == len(values)


def test_each_slot_is_uniform_in_benchmark_and_pool():
    for for_pool in (False, True):
        slots = synthetic.draw_slots(rng(3, "uniform"), 6000, for_pool=for_pool)
        for name in SLOT_NAMES:
            counts = np.bincount(slots[name], minlength=len(SLOTS[name]))
            assert len(counts) == len(SLOTS[name])
            assert scipy.stats.chisquare(counts).pvalue > 1e-4, name


def test_no_pool_clip_has_the_slots_of_a_benchmark_clip():
    benchmark = combinations(synthetic.benchmark_slots())
    assert len(benchmark) > 9000
    for seed in (1, synthetic.DATA_SEED):
        pool = combinations(synthetic.pool(seed, 20_000, with_inputs=False).slots)
        assert len(pool) > 10_000
        assert not pool & benchmark


def test_pools_of_different_seeds_differ_and_of_one_seed_agree():
    first, again, other = (synthetic.pool(seed, 40) for seed in (1, 1, 2))
    assert first.summaries == again.summaries
    assert np.array_equal(first.inputs["audio"], again.inputs["audio"])
    assert first.summaries != other.summaries


def test_no_word_belongs_to_two_slots_or_to_a_template():
    words = [word for values in SLOTS.values() for synonyms in values for word in synonyms]
    assert len(words) == len(set(words))
    templates = " ".join(t for style in captions.STYLES for t in style.templates)
    assert not set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", templates))) & set(words)


def test_every_template_names_every_slot_once():
    for style in captions.STYLES:
        assert len(style.templates) > 1
        for template in style.templates:
            assert sorted(re.findall(r"\{(\w+)\}", template)) == sorted(SLOT_NAMES)


def test_subtitle_words_are_distinct_and_have_one_meaning():
    ids = [i for values in SUBTITLE_IDS.values() for group in values for i in group] + list(FILLER_IDS)
    assert sorted(ids) == list(range(1, len(WORDS)))
    assert len(set(WORDS)) == len(WORDS)
    assert set(SUBTITLE_IDS) == set(signals.WORD_SHARES) == set(SHOWN_BY["subtitle"])
    assert all(len(SUBTITLE_IDS[name]) == len(SLOTS[name]) for name in SUBTITLE_IDS)


def test_subtitles_hint_at_every_slot_as_often_as_they_should_and_mostly_at_the_clips_value():
    slots = synthetic.draw_slots(rng(8, "hints"), 1_500, for_pool=False)
    ids = signals.draw_subtitle(slots, rng(8, "words"))
    n_words = int((ids != 0).sum())
    assert sum(signals.WORD_SHARES.values()) < 1
    for name, share in signals.WORD_SHARES.items():
        value_of = {i: value for value, group in enumerate(SUBTITLE_IDS[name]) for i in group}
        hints = [
            (value_of[i], slots[name][row]) for row, clip in enumerate(ids.tolist()) for i in clip if i in value_of
        ]
        assert scipy.stats.binomtest(len(hints), n_words, share).pvalue > 1e-4, name
        true = sum(said == meant for said, meant in hints)
        expected = 1 - signals.WORD_CONFUSION * (1 - 1 / len(SLOTS[name]))
        assert scipy.stats.binomtest(true, len(hints), expected).pvalue > 1e-4, name
    fillers = int(np.isin(ids, FILLER_IDS).sum())
    assert scipy.stats.binomtest(fillers, n_words, 1 - sum(signals.WORD_SHARES.values())).pvalue > 1e-4


def test_no_hint_is_a_word_that_a_summary_names_its_slot_by():
    named = {word for values in SLOTS.values() for synonyms in values for word in synonyms}
    assert not named & set(WORDS)


def test_subtitles_are_words_followed_by_padding(clips):
    ids = clips.inputs["subtitle"]
    assert ids.max() < len(WORDS)
    lengths = (ids != 0).sum(axis=1)
    assert lengths.min() == 12
    assert lengths.max() == 24
    assert all((row[:n] != 0).all() for row, n in zip(ids, lengths, strict=True))


def test_a_summary_names_all_slots_of_its_clip(clips):
    scores = slot_scores(slot_columns(clips.slots), clips.summaries)
    assert {name: metric.value for name, metric in scores.items()} == dict.fromkeys(scores, 1.0)


def test_benchmark_summaries_are_in_the_style_that_is_rarest_in_the_pool(clips):
    in_style = [" near " in text and " voice on " in text for text in clips.summaries]
    assert all(in_style)
    pool = synthetic.pool(7, 4000, with_inputs=False).summaries
    share = np.mean([" near " in text and " voice on " in text for text in pool])
    assert share == pytest.approx(0.1, abs=0.02)
    assert min(captions.POOL_WEIGHTS) == captions.POOL_WEIGHTS[captions.CLIP_STYLE] == 0.1


def test_the_liked_synonym_is_used_in_four_fifths_of_the_cases():
    slots = synthetic.draw_slots(rng(4, "liked"), 2000, for_pool=False)
    texts = captions.write_captions(slots, rng(4, "texts"))
    third = {synonyms[captions.STYLES[captions.CLIP_STYLE].liked] for v in SLOTS.values() for synonyms in v}
    share = np.mean([word in third for text in texts for word in re.findall(r"[a-z]+", text) if word not in FUNCTION])
    assert share == pytest.approx(0.8, abs=0.02)


FUNCTION = {"near", "voice", "on"}


def test_slot_scores_by_hand():
    columns = {f"slot_{name}": [SLOTS[name][0][0]] * 2 for name in SLOT_NAMES}
    texts = ["A PUPPY, red; songs and music... sadly, at the coastline of the coast", ""]
    scores = slot_scores(columns, texts)
    assert list(scores) == ["slots_one", "slots_two", "slots_three", "slots_all"]
    assert scores["slots_one"].value == pytest.approx(1 / 2 / 2), "colour, not topic"
    assert scores["slots_two"].value == pytest.approx(2 / 5 / 2), "object and sound, not action, voice and tone"
    assert scores["slots_three"].value == pytest.approx(1 / 1 / 2), "place"
    assert scores["slots_all"].value == pytest.approx(4 / 8 / 2)
    assert {metric.n for metric in scores.values()} == {2}


def test_slot_scores_of_nothing_are_zero_over_no_samples():
    scores = slot_scores({f"slot_{name}": [] for name in SLOT_NAMES}, [])
    assert {(metric.value, metric.n) for metric in scores.values()} == {(0.0, 0)}


def test_prepared_table_holds_what_was_drawn(prepared):
    result, _, seconds = prepared
    samples = Samples.open(result)
    clips = synthetic.benchmark()
    assert len(samples) == result.manifest.n_samples == 9680
    assert samples.targets == clips.summaries
    for name in DRAW:
        assert np.array_equal(samples.array(name), clips.inputs[name])
        assert samples.presence[name].all()
    assert samples.column("slot_tone") == slot_columns(clips.slots)["slot_tone"]
    assert len(set(samples.ids)) == 9680
    assert samples.column("group") == list(samples.ids)
    assert seconds < 20


def test_a_second_preparation_reads_the_cache(prepared, monkeypatch):
    result, cache, _ = prepared
    monkeypatch.setattr(synthetic, "benchmark", lambda: pytest.fail("generated again"))
    again = vast.prepare(DataRequest(None, cache))
    assert again == result
    assert again.folder.parent == cache / "vast"


@for_all("name", [
    "HIDDEN", "PIXEL_NOISE", "TEXTURE_SWING", "COLOURS", "SHAPES", "MOTIONS", "TINTS", "SOUND_NOISE", "LEVEL",
    "STEP_BANDS", "WORD_SHARES", "WORD_CONFUSION",
])  # fmt: skip  # all that signals are made with
def test_the_digest_follows_the_parameters(monkeypatch, name):
    before = synthetic.digest()
    assert before == synthetic.digest()
    with monkeypatch.context() as patch:
        patch.setattr(signals, name, "something else")
        assert synthetic.digest() != before
    assert synthetic.digest() == before


def test_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"run without --data-dir") as error:
        vast.prepare(DataRequest(tmp_path / "mine", tmp_path))
    assert str(tmp_path / "mine") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_card_matches_the_manifest():
    info, manifest = vast.mlecs_dataset(), synthetic.manifest()
    assert tuple(info.modalities) == manifest.modality_names
    assert info.task == manifest.task == "generation"
    assert set(info.diagnostic_columns) == {f"slot_{name}" for name in SLOT_NAMES}
    assert manifest.synthetic


def test_importing_the_plugin_loads_nothing_heavy_beyond_the_api():
    code = "import sys, mlecs_bench.api; a = set(sys.modules); import mlecs_plugins.datasets.vast as v; "
    code += "v.mlecs_dataset(); print(*(set(sys.modules) - a))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "mlecs_plugins.datasets.vast" in loaded
    assert "mlecs_plugins.datasets.vast.synthetic" not in loaded
    assert not {"torch", "datasets", "pandas", "numpy", "pyarrow", "scipy"} & set(loaded)
