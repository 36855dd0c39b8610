"""The words of the synthetic clips: eight slots with synonyms, which modality shows which slot, and subtitle words.

No word belongs to two slots, so a word in a summary names its slot. The lists are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

SLOTS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "object": (
        ("dog", "hound", "puppy"),
        ("cat", "kitten", "kitty"),
        ("car", "auto", "sedan"),
        ("boat", "ship", "ferry"),
        ("bird", "sparrow", "robin"),
        ("man", "guy", "fellow"),
        ("woman", "lady", "madam"),
        ("horse", "pony", "mare"),
    ),
    "colour": (
        ("red", "crimson", "scarlet"),
        ("blue", "navy", "azure"),
        ("green", "olive", "jade"),
        ("yellow", "golden", "amber"),
        ("white", "pale", "ivory"),
        ("black", "dark", "ebony"),
    ),
    "action": (
        ("running", "racing", "dashing"),
        ("jumping", "leaping", "hopping"),
        ("resting", "sitting", "waiting"),
        ("climbing", "rising", "mounting"),
        ("sinking", "falling", "dropping"),
        ("shaking", "trembling", "swaying"),
    ),
    "place": (
        ("beach", "shore", "coast"),
        ("forest", "woods", "jungle"),
        ("kitchen", "diner", "cafe"),
        ("street", "road", "avenue"),
        ("office", "studio", "lobby"),
        ("stadium", "arena", "gym"),
        ("desert", "dunes", "canyon"),
        ("farm", "field", "meadow"),
    ),
    "sound": (
        ("music", "melody", "song"),
        ("rain", "drizzle", "shower"),
        ("laughter", "giggles", "chuckles"),
        ("thunder", "rumble", "boom"),
        ("bells", "chimes", "gongs"),
        ("engines", "motors", "machines"),
        ("wind", "breeze", "gusts"),
        ("applause", "clapping", "cheers"),
    ),
    "voice": (
        ("deep", "low", "bass"),
        ("high", "shrill", "sharp"),
        ("soft", "gentle", "quiet"),
        ("hoarse", "raspy", "rough"),
    ),
    "topic": (
        ("cooking", "baking", "recipes"),
        ("travel", "tourism", "journeys"),
        ("sports", "fitness", "athletics"),
        ("history", "heritage", "museums"),
        ("science", "physics", "research"),
        ("money", "finance", "trade"),
        ("health", "medicine", "wellness"),
        ("fashion", "clothing", "style"),
        ("politics", "elections", "laws"),
        ("gaming", "games", "consoles"),
    ),
    "tone": (
        ("happy", "cheerful", "joyful"),
        ("sad", "gloomy", "tearful"),
        ("angry", "furious", "heated"),
        ("calm", "relaxed", "serene"),
        ("serious", "formal", "solemn"),
        ("funny", "comic", "witty"),
    ),
}
"""Slot → its values → the three words for a value; the first word is the value's name."""

SLOT_NAMES = tuple(SLOTS)

SHOWN_BY: Mapping[str, tuple[str, ...]] = {
    "audio": ("action", "place", "sound", "voice"),
    "subtitle": ("object", "place", "sound", "voice", "topic", "tone"),
    "vision": ("object", "colour", "action", "place", "tone"),
}
"""Modality → all slots it shows. Most slots are shown by several, so one modality can make up for another."""

REDUNDANCY: Mapping[str, tuple[str, ...]] = {
    count: tuple(name for name in SLOT_NAMES if sum(name in slots for slots in SHOWN_BY.values()) == n)
    for n, count in enumerate(("one", "two", "three"), start=1)
}
"""How many modalities show a slot → these slots."""

_TOPIC_WORDS = (
    "pan oven salt flour butter dough",
    "hotel ticket passport island train luggage",
    "team goal coach match race score",
    "king war castle empire century ruins",
    "atom lab theory planet energy cell",
    "bank stock price loan market coin",
    "doctor sleep heart vitamin clinic pulse",
    "dress silk brand shoes fabric runway",
    "vote party senate speech law mayor",
    "level player quest console boss pixel",
)
_TONE_WORDS = (
    "great love yes wonderful smile hooray",
    "lost miss alone cry sorry goodbye",
    "never enough stop hate wrong unfair",
    "slowly breathe easy peace still drift",
    "therefore must evidence note concern duty",
    "joke silly haha prank oops clown",
)
_VOICE_WORDS = (
    "hmm indeed gravely ahem",
    "wow eek oh aha",
    "please dear hush softly",
    "ugh cough grr heck",
)
_OBJECT_WORDS = (
    "bark leash fetch bone",
    "purr whiskers meow claw",
    "steering tyre fuel garage",
    "sail anchor deck harbour",
    "wings nest feather chirp",
    "beard sir uncle brother",
    "aunt sister mrs daughter",
    "saddle gallop stable hoof",
)
_PLACE_WORDS = (
    "sand waves towel seagull",
    "trees moss trail pine",
    "stove sink plate fridge",
    "crossing sidewalk traffic corner",
    "desk printer meeting laptop",
    "crowd seats scoreboard bleachers",
    "cactus camel mirage dust",
    "barn tractor hay fence",
)
_SOUND_WORDS = (
    "guitar drum chorus tune",
    "umbrella puddle wet cloud",
    "tickle amusing grin hilarious",
    "lightning storm flash bang",
    "church tower ring steeple",
    "piston exhaust gear throttle",
    "kite blow gale leaf",
    "bravo encore ovation audience",
)
_FILLER_WORDS = (
    "the a and so then we you it is was to of in on for with that this here there now today again also just very "
    "one two more some all look see go come make take get let say tell show know think want need have do can will "
    "at from about after before when what how why who"
)


def _ids(groups: tuple[str, ...], first: int) -> tuple[tuple[int, ...], ...]:
    """Return the ids of the words of each group, counted on from `first`."""
    sizes = [len(group.split()) for group in groups]
    starts = [first + sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True))


_HINTS = {
    "topic": _TOPIC_WORDS,
    "tone": _TONE_WORDS,
    "voice": _VOICE_WORDS,
    "object": _OBJECT_WORDS,
    "place": _PLACE_WORDS,
    "sound": _SOUND_WORDS,
}
_COUNTS = [sum(len(group.split()) for group in groups) for groups in _HINTS.values()]
_FIRST = [1 + sum(_COUNTS[:i]) for i in range(len(_COUNTS) + 1)]

SUBTITLE_WORDS = ("", *" ".join((*(group for groups in _HINTS.values() for group in groups), _FILLER_WORDS)).split())
"""The word of each subtitle id; id 0 is padding."""

SUBTITLE_IDS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    name: _ids(groups, first) for (name, groups), first in zip(_HINTS.items(), _FIRST[:-1], strict=True)
}
"""Slot → value → the ids of the subtitle words that hint at it."""

FILLER_IDS = _ids((_FILLER_WORDS,), _FIRST[-1])[0]
"""The ids of subtitle words that hint at nothing."""
