"""What becomes of a run that failed: started again, after how long, or given up."""

from dataclasses import replace
from typing import Any

from metaseq_plugin.launch.jobs.failures import Failure
from metaseq_plugin.launch.jobs.policy import decide, is_in_vain
from metaseq_plugin.launch.spec import Survival

SURVIVAL = Survival(max_restarts=3, backoff=10.0)
KILLED = Failure("rank 1 was ended by SIGSEGV: done 17", -11, 1, "n1", 40)


def failed(failure: Failure) -> dict[str, Any]:
    return {"kind": "failed", **failure.as_json()}


RESTARTING: dict[str, Any] = {"kind": "restarting"}


def test_the_first_failure_is_followed_by_a_restart_after_the_backoff() -> None:
    decision = decide(KILLED, [{"kind": "started"}], SURVIVAL)
    assert (decision.gives_up, decision.seconds, decision.attempt) == ("", 10.0, 1)


def test_restarts_that_made_no_update_double_the_wait_and_one_that_did_ends_that() -> None:
    others = [replace(KILLED, reason=reason) for reason in ("disk", "network")]
    before = [failed(others[0]), RESTARTING, failed(others[1]), RESTARTING]
    assert decide(KILLED, before, SURVIVAL).seconds == 40.0
    assert decide(replace(KILLED, update=41), before, SURVIVAL).seconds == 10.0


def test_the_same_reason_at_the_same_update_is_given_up_whatever_its_numbers() -> None:
    before = [failed(replace(KILLED, reason="rank 0 was ended by SIGSEGV: done 16")), RESTARTING]
    assert "failed at update 40 for the same reason" in decide(KILLED, before, SURVIVAL).gives_up
    assert not decide(replace(KILLED, update=41), before, SURVIVAL).gives_up
    assert not decide(replace(KILLED, reason="another"), before, SURVIVAL).gives_up


def test_two_bad_machines_are_two_failures() -> None:
    gone = Failure("the agent of n1 is gone", None, None, "n1", 40, blames_node=True)
    other = replace(gone, reason="the agent of n2 is gone", node="n2")
    assert not decide(other, [failed(gone), RESTARTING], SURVIVAL).gives_up
    assert decide(gone, [failed(gone), RESTARTING], SURVIVAL).gives_up


def test_a_users_mistake_is_not_tried_again() -> None:
    assert decide(Failure("`--lr` must be given", 2, 0), [], SURVIVAL).gives_up


def test_more_than_max_restarts_are_given_up() -> None:
    before = [RESTARTING, RESTARTING, RESTARTING]
    assert "--max-restarts" in decide(KILLED, before, SURVIVAL).gives_up
    assert not decide(KILLED, before[:2], SURVIVAL).gives_up


def resumed(update: int) -> dict[str, Any]:
    return {"kind": "resumed", "update": update}


def test_a_run_that_gets_on_is_started_again_for_ever() -> None:
    """Each start saves a little more before it fails."""
    before: list[dict[str, Any]] = []
    for update in range(40, 540, 10):
        failure = replace(KILLED, reason=f"reason {'x' * update}", update=update + 5)
        decision = decide(failure, before, SURVIVAL)
        assert (decision.gives_up, decision.seconds, decision.attempt) == ("", 10.0, 1)
        before += [failed(failure), RESTARTING, resumed(update)]


def test_a_run_that_saves_nothing_is_given_up_wherever_it_fails() -> None:
    """It resumes from the same save each time, and comes further or less far from there."""
    before: list[dict[str, Any]] = []
    attempts = []
    for update in (40, 45, 38, 52):
        failure = replace(KILLED, reason=f"reason {'x' * update}", update=update)
        attempts.append(decide(failure, before, SURVIVAL).attempt)
        before += [failed(failure), RESTARTING, resumed(30)]
    assert attempts == [1, 1, 2, 3]  # the first that resumed got on
    decision = decide(replace(KILLED, update=60), before, SURVIVAL)
    assert "started again 3 times in a row without getting on" in decision.gives_up


def test_a_start_from_an_earlier_save_is_no_progress() -> None:
    before = [RESTARTING, resumed(30), RESTARTING, RESTARTING, resumed(20), RESTARTING]
    assert "--max-restarts" in decide(KILLED, before, SURVIVAL).gives_up


def test_the_wait_has_a_ceiling_that_a_longer_backoff_does_not_mind() -> None:
    others = [failed(replace(KILLED, reason="x" * n)) for n in range(2000)]
    patient = Survival(max_restarts=3000, backoff=10.0)
    seconds = [decide(KILLED, others[:n], patient).seconds for n in (0, 1, 5, 6, 7, 2000)]
    assert seconds == [10, 20, 320, 600, 600, 600]
    assert decide(KILLED, others[:9], replace(patient, backoff=900.0)).seconds == 900


def test_restarts_that_could_not_be_written_count() -> None:
    assert not decide(KILLED, [], SURVIVAL, uncounted=2).gives_up
    assert "--max-restarts" in decide(KILLED, [], SURVIVAL, uncounted=3).gives_up


def test_two_starts_in_a_row_without_an_update_are_in_vain() -> None:
    ended: dict[str, Any] = {"kind": "preempted", "update": 7}
    assert is_in_vain(7, [ended, {"kind": "started"}])
    assert not is_in_vain(8, [ended, {"kind": "started"}])
    assert not is_in_vain(7, [{"kind": "started"}])
    assert not is_in_vain(7, [ended, {"kind": "saved_and_requeued", "update": 7}])
    assert not is_in_vain(7, [ended, failed(KILLED), RESTARTING])
