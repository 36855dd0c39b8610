"""The generated stand-in of UR-FALL: its shape, its determinism, and that no modality is enough."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import f1_score

from laws import for_all
from mlecs_bench.data.samples import DataRequest, Prepared, Samples
from mlecs_bench.errors import DataError
from mlecs_plugins.datasets.ur_fall import card, prepare, synthetic

N_FRAMES = 11_544
REAL_SHARES = np.array([7452, 1719, 2373]) / N_FRAMES
MAJORITY_F1 = 0.262


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DataRequest(None, tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def opened(stand_in: Prepared) -> Samples:
    return Samples.open(stand_in)


@pytest.fixture(scope="module")
def sequences() -> list[synthetic.Sequence]:
    return synthetic.make_sequences(synthetic.DATASET_SEED)


def runs(labels: np.ndarray) -> list[int]:
    return [label for label, _ in itertools.groupby(labels.tolist())]


def test_stand_in_has_the_real_size_and_shapes(stand_in: Prepared, opened: Samples) -> None:
    manifest = stand_in.manifest
    assert (manifest.view, manifest.synthetic, manifest.labels) == ("synthetic", True, card.WORDS)
    assert len(opened) == len(set(opened.ids)) == manifest.n_samples == N_FRAMES
    kinds = dict(zip(opened.column("group"), opened.column("stratum"), strict=True))
    assert Counter(kinds.values()) == {"fall": 30, "adl": 40}
    for name, (shape, dtype) in {
        "acce": ((15, 3), "float32"),
        "depth": ((8,), "float32"),
        "rgb": ((24, 32, 3), "uint8"),
    }.items():
        assert opened.array(name).shape == (N_FRAMES, *shape)
        assert opened.array(name).dtype == dtype
        assert opened.presence[name].all()
        assert np.isfinite(opened.array(name)).all()


def test_class_shares_are_about_the_real_ones(opened: Samples) -> None:
    counts = Counter(opened.targets)
    np.testing.assert_allclose([counts[word] / N_FRAMES for word in card.WORDS], REAL_SHARES, atol=0.01)


def test_label_runs_are_those_of_people_who_lie_down_or_do_not(sequences: list[synthetic.Sequence]) -> None:
    patterns = Counter((s.stratum, tuple(runs(s.labels))) for s in sequences)
    assert set(patterns) == {("fall", (0, 1, 2)), ("adl", (0,)), ("adl", (0, 1, 2)), ("adl", (0, 1, 2, 1))}
    assert patterns["fall", (0, 1, 2)] == 30
    assert patterns["adl", (0,)] == 24


def test_same_seed_gives_the_same_sequences(sequences: list[synthetic.Sequence], opened: Samples) -> None:
    arrays, labels = synthetic.stack(sequences)  # made a second time, for this test
    assert opened.targets == [card.WORDS[label] for label in labels]
    for modality, values in arrays.items():
        np.testing.assert_array_equal(values, opened.array(modality))
    assert len(sequences) == synthetic.N_SEQUENCES


def test_pool_shares_nothing_with_the_stand_in(opened: Samples) -> None:
    arrays, labels = synthetic.synthetic_pool(5, 7)
    assert set(np.unique(labels)) == {0, 1, 2}
    for m in card.modalities(card.UrFallOptions()):
        values = arrays[m.name]
        assert values.shape == (len(labels), *m.shape)
        assert values.dtype == m.dtype
        known = {row.tobytes() for row in opened.array(m.name)}
        assert not any(row.tobytes() in known for row in values)


def test_pools_of_two_seeds_differ_and_one_seed_repeats() -> None:
    one, again, other = (synthetic.synthetic_pool(seed, 3) for seed in (5, 5, 6))
    for modality in one[0]:
        np.testing.assert_array_equal(one[0][modality], again[0][modality])
        assert not np.array_equal(one[0][modality][:50], other[0][modality][:50])


def test_pool_refuses_the_seed_of_the_stand_in() -> None:
    with pytest.raises(DataError, match="another seed"):
        synthetic.synthetic_pool(synthetic.DATASET_SEED, 3)


@for_all("n_sequences", [1, 2, 3, 10])
def test_any_number_of_sequences_can_be_made(n_sequences: int) -> None:
    made = synthetic.make_sequences(9, n_sequences)
    assert len({s.name for s in made}) == len(made) == n_sequences
    assert all(len(s.labels) == len(a) > 0 for s in made for a in s.arrays.values())


def test_consecutive_windows_share_their_samples(sequences: list[synthetic.Sequence]) -> None:
    acce = sequences[0].arrays["acce"]
    np.testing.assert_array_equal(acce[1:, :-1], acce[:-1, 1:])


def test_depth_option_gives_images_of_the_same_sequences(tmp_path: Path, opened: Samples) -> None:
    options = card.UrFallOptions(labels="digits", depth="image")
    images = Samples.open(prepare(DataRequest(None, tmp_path, options)))
    assert images.array("depth").shape == (N_FRAMES, 24, 32, 1)
    assert images.array("depth").dtype == np.uint8
    assert [card.WORDS[int(t)] for t in images.targets] == opened.targets
    np.testing.assert_array_equal(images.array("rgb"), opened.array("rgb"))
    assert images.manifest.digest != opened.manifest.digest


def test_stand_in_is_generated_once(stand_in: Prepared) -> None:
    calls: list[str] = []
    request = DataRequest(None, stand_in.folder.parent.parent, None, lambda done, total, what: calls.append(what))
    assert prepare(request) == stand_in
    assert calls == []


def simple_features(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    n = len(arrays["depth"])
    rgb = arrays["rgb"].astype(np.float32)
    body = (rgb.mean(axis=(1, 2), keepdims=True) - rgb).mean(axis=3)
    acce = arrays["acce"]
    motion = np.abs(np.diff(acce, axis=1))
    return {
        "rgb": np.concatenate([body.mean(axis=2), body.mean(axis=1)], axis=1),
        "depth": arrays["depth"],
        "acce": np.concatenate([acce.std(axis=1), motion.mean(axis=2), acce.reshape(n, -1)], axis=1),
    }


def test_each_modality_helps_and_none_is_enough(sequences: list[synthetic.Sequence]) -> None:
    train, test = sequences[0::2], sequences[1::2]  # no sequence is on both sides
    arrays, labels = synthetic.stack(train)
    inputs = simple_features({m: a[::3] for m, a in arrays.items()})
    test_arrays, test_labels = synthetic.stack(test)
    test_inputs = simple_features({m: a[::3] for m, a in test_arrays.items()})

    def score(modalities: tuple[str, ...]) -> float:
        model = ExtraTreesClassifier(30, min_samples_leaf=3, random_state=0, n_jobs=1)
        model.fit(np.concatenate([inputs[m] for m in modalities], axis=1), labels[::3])
        guesses = model.predict(np.concatenate([test_inputs[m] for m in modalities], axis=1))
        return float(f1_score(test_labels[::3], guesses, average="macro"))

    by_count = {k: [score(c) for c in itertools.combinations(inputs, k)] for k in (1, 2, 3)}
    one, two, three = (float(np.mean(by_count[k])) for k in (1, 2, 3))
    assert one + 0.05 < two < three < 0.95
    assert min(by_count[1]) > MAJORITY_F1 + 0.1
    assert max(by_count[1]) < three
