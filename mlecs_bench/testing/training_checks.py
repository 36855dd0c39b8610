"""Checks of what an algorithm trains: how often, what, and whose."""

from __future__ import annotations

from mlecs_bench.doors.events import Event
from mlecs_bench.errors import PluginError
from mlecs_bench.testing.trial import Subject
from mlecs_bench.testing.verdict import fail


def counted_steps(subject: Subject) -> None:
    """Every optimiser step is counted against a budget."""
    for count in subject.diary.step_counts:
        if count.counted != count.taken:
            happened = f"{count.step} took {count.taken} and counted {count.counted}"
            fail("every optimiser step is counted", happened, "train with train_stage, or call party.count_steps")


def budget_paper(subject: Subject) -> None:
    """With --budget paper every device takes its private steps, and its public and setup steps as declared."""
    _keeps_budget(subject, "paper")


def budget_equal(subject: Subject) -> None:
    """With --budget equal every device takes its private steps, and its public and setup steps as declared."""
    _keeps_budget(subject, "equal")


def _keeps_budget(subject: Subject, budget: str) -> None:
    federation = subject.federation(budget=budget)
    taken: dict[tuple[int, str], dict[str, int]] = {}

    def note(event: Event) -> None:
        if event.kind == "device_end":
            taken[event.round, event.device] = event.values["steps"]

    broken: PluginError | None = None
    try:
        subject.run(federation, tell=note)
    except PluginError as error:
        broken = error
    for (t, id_), steps in sorted(taken.items()):
        allowed = federation.server.training.budget
        stages = ("setup",) if id_ == federation.server.id else ("private", "public")
        for stage in stages:
            wanted, count = allowed.allowed(stage, t), steps.get(stage, 0)
            if count != wanted:
                happened = f"with --budget {budget} {id_} took {count} of {wanted} {stage} steps in round {t}"
                fail("a party takes the steps of its budget", happened, _STEP_ADVICE[stage])
    if broken:
        raise broken


_STEP_ADVICE = {
    "private": "take device.training.budget.private steps (train_on_private does), and let Needs.private_stages say by "
    "how many stages",
    "public": "let Needs.public_stage say whether devices train on the public data, and take budget.public steps",
    "setup": "let Needs.setup_steps say how many steps the server takes in round 1 on top",
}


def server_score(subject: Subject) -> None:
    """The server's model is trained if and only if the card says server_score."""
    changed, declared = subject.diary.server_model_changed(), subject.info.server_score
    if changed != declared:
        happened = f"server_score is {declared} and the model {'changed' if changed else 'did not change'}"
        fail("the server's model is scored if it is trained", happened, "correct server_score, or train server.model")


def frozen_backbones(subject: Subject) -> None:
    """The weights of the language models stay as they were, bit for bit."""
    changed = subject.diary.changed_backbones()
    if changed:
        advice = "train the parts of the unified model only (mlecs_bench.api.ALL_PARTS)"
        fail("the language models are frozen", f"{changed[0]} changed", advice)


def only_own_state(subject: Subject) -> None:
    """Every step changes the state of its own party only."""
    changes = subject.diary.foreign_changes
    if changes:
        advice = "send what another party needs in a message; devices share a backbone but no adapter"
        fail("a step changes its own party only", changes[0], advice)
