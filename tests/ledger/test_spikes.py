"""The detector of spikes: what it finds at once, and what it leaves alone."""

import math
import random

import pytest

from metaseq_plugin.ledger.spikes import LEARNING, NEAR, Detector, Seen, Spike

FIRST_JUDGED = LEARNING + NEAR + 1


def ordinary(updates: int, seed: int = 0, noise: float = 0.05) -> list[Seen]:
    """A loss that falls from 12 to 3, fast at first, and a norm that falls while the rate warms up, then grows."""
    draw = random.Random(seed)
    return [
        Seen(
            update,
            3 + 9 * math.exp(-update / 60) + draw.gauss(0, noise),
            (4 * math.exp(-update / 20) + 0.5 + update / 1000) * math.exp(draw.gauss(0, 0.15)),
        )
        for update in range(1, updates + 1)
    ]


def look_at_all(detector: Detector, values: list[Seen]) -> dict[int, Spike]:
    found = {seen.update: detector.look(seen) for seen in values}
    return {update: spike for update, spike in found.items() if spike is not None}


@pytest.mark.parametrize("seed", range(20))
def test_an_ordinary_run_has_no_spike(seed: int) -> None:
    assert not look_at_all(Detector(128, 8.0), ordinary(600, seed))


@pytest.mark.parametrize("of", ["loss", "gnorm"])
@pytest.mark.parametrize("at", [FIRST_JUDGED, 80, 400])
def test_a_spike_is_found_in_its_update_and_only_there(of: str, at: int) -> None:
    values = ordinary(500)
    seen = values[at - 1]
    values[at - 1] = (
        seen._replace(loss=2 * seen.loss + 5)
        if of == "loss"
        else seen._replace(gnorm=50 * seen.gnorm)
    )
    found = look_at_all(Detector(128, 8.0), values)
    assert list(found) == [at]
    assert found[at].of == of
    assert found[at].z >= 8
    assert found[at].value == (values[at - 1].loss if of == "loss" else values[at - 1].gnorm)


def test_the_z_is_that_of_the_formula() -> None:
    """Losses of 10 and 11 in turn: 10 or 11 is expected, |residual| is 1 or 0; the next value is 30."""
    values = [Seen(update, 10.0 + update % 2, 1.0) for update in range(1, 101)]
    detector = Detector(64, 8.0)
    assert not look_at_all(detector, values)
    # Before update 101 the last nine are 10, 11, …, 10: 10 is expected. Of nine values the middle one is that of
    # the first and last, so that every residual is 11 − 10 or 10 − 11, and the spread is 1.4826.
    spike = detector.look(Seen(101, 30.0, 1.0))
    assert spike is not None
    assert (spike.of, spike.value, spike.z) == ("loss", 30.0, pytest.approx(20 / 1.4826))


def test_before_it_has_learnt_nothing_is_judged() -> None:
    values = ordinary(FIRST_JUDGED - 1)
    values[-1] = values[-1]._replace(loss=1000.0)
    assert not look_at_all(Detector(128, 8.0), values)


def test_a_fall_is_no_spike() -> None:
    values = [seen._replace(loss=seen.loss - 2 * (seen.update > 300)) for seen in ordinary(400)]
    assert not look_at_all(Detector(128, 8.0), values)


def test_it_comes_to_rest_where_a_run_goes_over_to_other_values() -> None:
    """Data of another kind: a few updates spike, and then no more."""
    values = [seen._replace(loss=seen.loss + 4 * (seen.update > 300)) for seen in ordinary(400)]
    found = look_at_all(Detector(128, 8.0), values)
    assert list(found) == list(range(301, 301 + len(found)))
    assert 1 <= len(found) <= NEAR // 2 + 1


def test_what_is_restored_judges_as_before() -> None:
    values = ordinary(300)
    one, other = Detector(64, 8.0), Detector(64, 8.0)
    look_at_all(one, values)
    other.restore(one.kept)
    spike = Seen(301, 9.0, 0.5)
    assert one.look(spike) == other.look(spike) != None  # noqa: E711


def test_a_norm_of_zero_is_taken() -> None:
    assert not look_at_all(Detector(64, 8.0), [Seen(update, 1.0, 0.0) for update in range(100)])


def test_a_loss_that_is_always_zero_is_taken() -> None:
    """As of a criterion that logs none; the first that is not is a spike."""
    detector = Detector(64, 8.0)
    assert not look_at_all(detector, [Seen(update, 0.0, 1.0) for update in range(100)])
    spike = detector.look(Seen(100, 0.5, 1.0))
    assert spike is not None
    assert spike.of == "loss"
