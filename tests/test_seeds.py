"""Named random streams: a name gives the same numbers for ever, and nothing else changes them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mlecs_bench.seeds import PROTOCOL_SEEDS, rng, stream_key, torch_generator, torch_stream

PATHS = [(), ("partition",), ("masks", 0), ("device", 2, 5, "amt"), ("init", "lora")]


def names():
    """Return many names of streams, among them pairs that a careless join would confuse."""
    tricky = [
        (0, "a", "b"),
        (0, "ab"),
        (0, "a,b"),
        (0, "a/b"),
        (0, 'a", "b'),
        (0, "a b"),
        (0, "1"),
        (0, 1),
        (0, 1, 2),
        (0, 12),
        (0, "1", 2),
        (0,),
        (0, ""),
        (0, "", ""),
        (1, 0),
        (10,),
        (-1,),
        (1,),
    ]
    grid = itertools.product(range(40), ("partition", "masks", "batches", "dropout"), range(20))
    return tricky + [name for name in grid if name not in tricky]


def test_the_protocol_has_the_five_seeds_of_the_authors():
    assert PROTOCOL_SEEDS == (27, 34, 46, 52, 93)


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ((27, "partition"), "1c2798643861d747355773c9e5804ff6"),
        ((27, "device", 2, 5, "amt"), "dfb76f53bc0258201c9d647d0480b7ae"),
        ((0,), "d0bca111f8628137adc4c16f123496dc"),
        ((46, "masks", 0), "e9960b019da442aa62a1b220897a1284"),
    ],
)
def test_a_key_is_the_first_half_of_the_sha256_of_the_name_in_json(name, sha256):
    # sha256sum of the text, for example [27, "partition"], without a newline.
    assert stream_key(*name) == int(sha256, 16)


def test_a_stream_yields_the_numbers_it_yielded_when_the_reference_results_were_made():
    raw = rng(27, "partition").bit_generator.random_raw(3).tolist()
    assert raw == [14511346078676108956, 10052578950972291906, 2311902347216649772]


def test_different_names_have_different_keys():
    keys = {stream_key(*name) for name in names()}
    assert len(keys) == len(names())
    assert all(0 <= key < 2**128 for key in keys)


@pytest.mark.parametrize("seed", [0, *PROTOCOL_SEEDS[:2]])
@pytest.mark.parametrize("path", PATHS)
def test_a_stream_does_not_depend_on_what_was_drawn_before(seed, path):
    fresh = rng(seed, *path).random(5)
    rng(seed, "other").random(1000)
    used = rng(seed, *path)
    used.random(17)
    assert np.array_equal(rng(seed, *path).random(5), fresh)


def test_neighbouring_streams_are_uniform_and_uncorrelated():
    n = 4000
    draws = np.array([rng(seed, "masks", j).random(n) for seed in (27, 28) for j in range(8)])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert np.abs(draws.mean(axis=1) - 0.5).max() < 5 * np.sqrt(1 / 12 / n)
    assert np.abs(draws.var(axis=1) - 1 / 12).max() < 5 * np.sqrt(1 / 180 / n)


@pytest.mark.parametrize("seed", [0, *PROTOCOL_SEEDS[:2]])
@pytest.mark.parametrize("path", PATHS)
def test_a_torch_generator_follows_its_name_and_leaves_the_global_one_alone(seed, path):
    before = torch.get_rng_state()
    drawn = torch.rand(6, generator=torch_generator(seed, *path))
    assert torch.equal(torch.get_rng_state(), before)
    oracle = torch.Generator().manual_seed(stream_key(seed, *path) % 2**63)
    assert torch.equal(drawn, torch.rand(6, generator=oracle))


@pytest.mark.parametrize("seed", PROTOCOL_SEEDS)
def test_a_torch_stream_sets_the_global_generator_and_gives_it_back(seed):
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    with torch_stream(seed, "dropout", "d00", 1, "amt"):
        inside = torch.rand(6)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(inside, torch.rand(6, generator=torch_generator(seed, "dropout", "d00", 1, "amt")))


def test_a_torch_stream_gives_the_global_generator_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="shape"), torch_stream(27, "dropout"):
        torch.rand(3).numpy().reshape(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_torch_stream_within_another_does_not_move_it():
    with torch_stream(27, "outer"):
        alone = torch.rand(8)
    with torch_stream(27, "outer"):
        first = torch.rand(4)
        with torch_stream(27, "inner"):
            inner = torch.rand(4)
        second = torch.rand(4)
    assert torch.equal(torch.cat([first, second]), alone)
    assert not torch.equal(inner, first)
