from triptych.core.fleet import Stage
from triptych.core.reconcile import Found, RestartHistory, Serving, Start, adopt, new_roster, reconcile

DESIRED = {"prefill-0": Stage.PREFILL, "decode-0": Stage.DECODE, "decode-1": Stage.DECODE}
ABILITIES = {stage: frozenset({stage}) for stage in Stage}
FINGERPRINTS = {worker_id: f"settings of {worker_id}" for worker_id in DESIRED}


def found(worker_id: str, attempt: int = 0, fingerprint: str | None = None) -> Found:
    return Found(
        f"{worker_id}/{attempt}",
        worker_id,
        attempt,
        f"settings of {worker_id}" if fingerprint is None else fingerprint,
    )


def test_what_serves_as_desired_is_taken_over_and_the_rest_started() -> None:
    actors = [found("decode-0", 3), found("prefill-0")]
    roster, ended = adopt(new_roster(DESIRED, ABILITIES), actors, FINGERPRINTS, 7.0)
    assert ended == ()
    assert roster.workers["decode-0"].state == Serving(7.0)
    assert roster.workers["decode-0"].history == RestartHistory(3)
    assert reconcile(roster, None, 7.0)[1] == (Start("decode-1", 0),)


def test_other_settings_other_workers_and_what_does_not_serve_are_ended() -> None:
    actors = [found("decode-0", fingerprint="older"), found("decode-1", fingerprint=""), found("decode-2")]
    roster, ended = adopt(new_roster(DESIRED, ABILITIES), actors, FINGERPRINTS, 7.0)
    assert set(ended) == set(actors)
    assert len(reconcile(roster, None, 7.0)[1]) == 3


def test_of_two_actors_of_one_worker_the_latest_that_fits_stays() -> None:
    actors = [found("decode-0", 1), found("decode-0", 3, "older"), found("decode-0", 2)]
    roster, ended = adopt(new_roster(DESIRED, ABILITIES), actors, FINGERPRINTS, 7.0)
    assert roster.workers["decode-0"].history.total == 2
    assert {actor.attempt for actor in ended} == {1, 3}
