"""Checks of a metric plugin: that its scorer is a function of the answers, and says what it is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from mlecs_bench.data.writing import writing_of
from mlecs_bench.doors.hookspecs import MetricInfo, MetricRequest
from mlecs_bench.doors.scoring import Metric, Scorer
from mlecs_bench.errors import MlecsError
from mlecs_bench.testing.card_checks import check_texts
from mlecs_bench.testing.global_state import global_state, global_streams
from mlecs_bench.testing.material import new_folder
from mlecs_bench.testing.verdict import fail

LABELS = ("a red happy thing", "a blue sad thing", "a loud quiet thing")
TARGETS = (LABELS[0], LABELS[1], LABELS[2], LABELS[0], LABELS[1], LABELS[0])
ANSWERS: Mapping[str, Sequence[str]] = {
    "some right answers": (LABELS[0], LABELS[0], LABELS[2], "a red", "nothing of the kind", LABELS[0]),
    "answers that are other labels": (LABELS[1], LABELS[2], LABELS[0], LABELS[1], LABELS[2], LABELS[1]),
    "empty answers": ("",) * len(TARGETS),
    "answers in another script": ("東京 3.14", "\u0000", "ß", "🙂", "  ", "\n"),
}
"""Answers to `TARGETS`; none but the first are right anywhere."""
SAME = 1e-6
"""How far apart two values may be that a sum in another order may give."""
SCRIPTS: Mapping[str, Sequence[str]] = {
    "accented Latin": ("été à la forêt près", "où brûle ça déjà né", "ñandú más allá está"),
    "Cyrillic": ("рыжая кошка бежит домой", "синий дом стоит тихо", "громкая птица поёт утром"),
    "Greek": ("η κόκκινη γάτα τρέχει", "το μπλε σπίτι κοιμάται", "ένα πουλί τραγουδά δυνατά"),
    "Arabic": ("القطة الحمراء تجري بسرعة", "البيت الأزرق هادئ جدا", "طائر يغني بصوت عال"),
    "Devanagari": ("लाल बिल्ली घर जाती", "नीला मकान शांत है", "चिड़िया सुबह गाती है"),
    "Chinese": ("红色的猫跑回家", "蓝房子很安静", "小鸟早上唱歌"),
    "Japanese": ("赤いネコがはしる", "青い家はしずかだ", "鳥があさに歌う"),
    "Thai": ("แมวแดงวิ่งกลับบ้าน", "บ้านสีฟ้าเงียบมาก", "นกร้องเพลงตอนเช้า"),
    "Korean": ("빨간 고양이가 집에 간다", "파란 집은 아주 조용하다", "작은 새가 아침에 노래한다"),
}
"""Three texts in each of some scripts, of which no two are alike."""


@dataclass(frozen=True)
class Measure:
    """The metric under test, made for a dataset with the classes `LABELS`."""

    name: str
    info: MetricInfo

    def make(self, cache_dir: Path) -> Scorer:
        """Return the scorer with a cache folder; raises CheckFailed where there is none."""
        return self._made(MetricRequest(LABELS, cache_dir))

    def _made(self, request: MetricRequest) -> Scorer:
        scorer = self.info.make(request)
        if scorer is None:
            fail("the metric can be checked", "make(request) gave None", "install the optional package that it needs")
        return scorer

    @cached_property
    def _folder(self) -> Path:
        return new_folder()

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer."""
        return self.make(self._folder)

    def for_texts(self, texts: Sequence[str]) -> Scorer:
        """Return the scorer of a dataset whose targets, and classes, are `texts`."""
        return self._made(MetricRequest(tuple(texts), self._folder, writing=writing_of(texts)))

    def score(self, predictions: Sequence[str], references: Sequence[str] = TARGETS) -> Metric:
        """Return the score of some answers; raises CheckFailed for anything but a Metric with a finite value."""
        found = self.scorer.score(list(predictions), list(references))
        if not isinstance(found, Metric):
            fail(
                "score(…) returns a Metric",
                f"it gave {type(found).__name__}",
                "return mlecs_bench.api.Metric(value, n)",
            )
        if not math.isfinite(found.value):
            fail("a score is a finite number", f"it is {found.value}", "say what an answer without words scores")
        return found

    def loss(self, predictions: Sequence[str]) -> float:
        """Return how bad some answers are by this metric: the less the better."""
        found = self.score(predictions).value
        return -found if self.info.higher_is_better else found


def card(measure: Measure) -> None:
    """The card has title and summary, and says in which direction the metric is better."""
    check_texts({"title": measure.info.title, "summary": measure.info.summary})
    if not isinstance(measure.info.higher_is_better, bool):
        fail("higher_is_better is True or False", f"it is {measure.info.higher_is_better!r}", "write one of them")
    least, greatest = measure.info.range
    if not least < greatest:
        fail("a range goes from the least to the greatest value", f"it is {least:g} to {greatest:g}", "turn it round")


def named(measure: Measure) -> None:
    """The scorer has the name of the entry point, under which records hold its values."""
    if measure.scorer.name != measure.name:
        happened = f"'{measure.name}' makes one called '{measure.scorer.name}'"
        fail("a scorer has the name of its entry point", happened, "let them agree")


def identity(measure: Measure) -> None:
    """The scorer's identity is one line, the same wherever it is made, and holds no path."""
    first, second, folder = measure.make(new_folder()).identity, measure.make(new_folder()).identity, new_folder()
    wanted = "an identity names everything that can change a number, and nothing else"
    if not isinstance(first, str) or not first.strip() or "\n" in first:
        fail(wanted, f"it is {first!r}", "write name, version and settings of the implementation in one line")
    if first != second or str(folder.parent) in first or re.search(r"(^|[\s=])(/|~)\w", first):
        happened = f"it is '{first}', and '{second}' in another cache folder"
        fail(wanted, happened, "leave out paths, dates and whatever else differs between machines")


def values(measure: Measure) -> None:
    """Every value is finite, whatever the answers are, and counts the samples behind it."""
    for predictions in ANSWERS.values():
        for n in (1, len(TARGETS)):
            found = measure.score(predictions[:n], TARGETS[:n])
            if found.n != n:
                fail("n is the number of samples", f"it is {found.n} of {n}", "return Metric(value, len(references))")


def in_range(measure: Measure) -> None:
    """Every value is in the range that the card states."""
    least, greatest = measure.info.range
    for what, predictions in {"perfect answers": TARGETS, **ANSWERS}.items():
        value = measure.score(predictions).value
        if not least - SAME <= value <= greatest + SAME:
            fail(f"values are from {least:g} to {greatest:g}", f"{what} score {value:g}", "correct the card's range")


def per_sample(measure: Measure) -> None:
    """The score is the mean of what single samples score, where the card says so."""
    if measure.info.per != "sample":
        return
    predictions = ANSWERS["some right answers"]
    single = [measure.score([p], [t]).value for p, t in zip(predictions, TARGETS, strict=True)]
    together = measure.score(predictions).value
    if abs(fmean(single) - together) > SAME:
        happened = f"all together score {together:g}, and one by one {fmean(single):g} in the mean"
        fail("a score per sample is the mean over samples", happened, "say per='corpus', or take the mean")


def other_scripts(measure: Measure) -> None:
    """Perfect answers in any script score better than wrong ones, or the score says that it sees nothing of them."""
    for script, texts in SCRIPTS.items():
        scorer = measure.for_texts(texts)
        right, wrong = (scorer.score(list(answers), list(texts)) for answers in (texts, [*texts[1:], texts[0]]))
        gain = right.value - wrong.value if measure.info.higher_is_better else wrong.value - right.value
        if gain <= SAME and not right.unseen:
            happened = f"in {script} they score {right.value:g}, and wrong ones {wrong.value:g}"
            advice = "read words of any script (request.writing says which there are), or count the unseen in Metric"
            fail("perfect answers in any script are better than wrong ones", happened, advice)


def direction(measure: Measure) -> None:
    """Scores are better in the direction that the card says."""
    found = measure.score(TARGETS).higher_is_better
    if found != measure.info.higher_is_better:
        happened = f"the card says higher_is_better={measure.info.higher_is_better}, a score {found}"
        fail("card and scores agree on the direction", happened, "correct one of them")


def perfect_answers(measure: Measure) -> None:
    """The targets themselves score best, and strictly better than answers of which none is right."""
    best = measure.loss(TARGETS)
    for what, predictions in ANSWERS.items():
        reached = measure.loss(predictions)
        if reached < best - SAME or (what.startswith("answers that are") and reached <= best + SAME):
            happened = f"they score {abs(best):g} and {what} {abs(reached):g}"
            fail("perfect answers are the best", happened, "look at the direction, and at what is compared")


def order_of_samples(measure: Measure) -> None:
    """The order of the samples does not matter."""
    predictions = ANSWERS["some right answers"]
    for turned in (slice(None, None, -1), slice(1, None)):
        shift = range(len(TARGETS))[turned]
        order = [*shift, *(i for i in range(len(TARGETS)) if i not in shift)]
        one, other = (
            measure.score(predictions),
            measure.score([predictions[i] for i in order], [TARGETS[i] for i in order]),
        )
        if abs(one.value - other.value) > SAME:
            happened = f"the value is {one.value!r}, in another order {other.value!r}"
            fail("the order of the samples does not matter", happened, "compare each answer with its own target")


def deterministic(measure: Measure) -> None:
    """The same answers score the same, whatever was scored before and wherever the global streams stand."""
    predictions = ANSWERS["some right answers"]
    with global_streams(1):
        first = measure.score(predictions)
    with global_streams(2):
        measure.score(TARGETS)
        before = global_state()
        again = measure.score(predictions)
        moved = [name for name, value in global_state().items() if value != before[name]]
    if again != first:
        happened = f"the same answers score {first.value!r} and then {again.value!r}"
        fail("a score depends on the answers alone", happened, "keep nothing between calls, and draw nothing")
    if moved:
        fail("a metric leaves what others share as it was", f"it moved {moved[0]}", "draw nothing")


def refusals(measure: Measure) -> None:
    """No samples, and another number of answers than of targets, are refused in one line."""
    cases: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "no samples": ((), ()),
        "two answers for one target": (TARGETS[:2], TARGETS[:1]),
    }
    for what, (predictions, references) in cases.items():
        wanted, advice = f"{what} are refused in one line", "call mlecs_bench.api.check_pairs first"
        try:
            measure.scorer.score(list(predictions), list(references))
        except MlecsError as error:
            if "\n" in str(error).strip():
                fail(wanted, "the message has several lines", "say in one line what is wrong")
        except Exception as error:  # noqa: BLE001  # any other error is what this check looks for
            fail(wanted, f"{type(error).__name__} was raised: {error}", advice)
        else:
            fail(wanted, "they were scored", advice)


METRIC_CHECKS = (
    card,
    named,
    identity,
    values,
    in_range,
    per_sample,
    other_scripts,
    direction,
    perfect_answers,
    order_of_samples,
    deterministic,
    refusals,
)
