"""The shares of a ticket on the wire."""

from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.ranks.messages import Share
from triptych.transfer import Endpoint, Heads


def shares_of(ticket: pb.Ticket, all_heads: Heads) -> tuple[Share, ...]:
    """Who takes which heads; a worker with one rank takes all.

    Raises:
        InvalidArgument: a share has no heads.
    """
    if not ticket.shares:
        return (Share(_endpoint(ticket.endpoint), all_heads),)
    return tuple(Share(_endpoint(one.endpoint), Heads(one.first_head, one.heads)) for one in ticket.shares)


def share_to_proto(share: Share) -> pb.KvShare:
    """The wire form."""
    endpoint = pb.DataEndpoint(address=share.endpoint.address, host_id=share.endpoint.host_id)
    return pb.KvShare(endpoint=endpoint, first_head=share.heads.first, heads=share.heads.count)


def _endpoint(endpoint: pb.DataEndpoint) -> Endpoint:
    return Endpoint(endpoint.address, endpoint.host_id)
