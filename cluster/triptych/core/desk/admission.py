"""Whether a request may come in: pure."""

from triptych.core.desk.entry import Entry, Submission
from triptych.core.errors import AlreadyExists, InvalidArgument, TriptychError
from triptych.core.fleet.worker import Fleet
from triptych.core.plan import Plan, RoutingPolicy
from triptych.core.routing import choose


def matching(known: Entry | None, submission: Submission) -> Entry | None:
    """The request that a client comes back to; None for a new one.

    Raises:
        AlreadyExists: the id is taken by a request that this one does not continue.
        InvalidArgument: the client says it has tokens that are not of this answer.
    """
    if known is None:
        return None
    request_id, received = submission.request_id, submission.received
    if received is None:
        raise AlreadyExists(f"a request with id {request_id!r} is running", field="request_id")
    if known.digest != submission.digest:
        raise AlreadyExists(f"the running request with id {request_id!r} asks something else", field="request_id")
    if list(received) != known.token_ids(len(received)):
        raise InvalidArgument(
            f"the answer to {request_id!r} does not begin with these {len(received)} tokens",
            field="resume.received_token_ids",
        )
    return known


def refusal(submission: Submission, fleet: Fleet, policy: RoutingPolicy) -> TriptychError | None:
    """Why a new request has to be sent away now; None when it can be served.

    A client that comes back is not sent away: its router may have just been started, and know no worker yet.
    """
    if submission.received is not None or submission.follows:
        return None
    plan = choose(submission.demand, fleet, policy)
    return None if isinstance(plan, Plan) else plan
