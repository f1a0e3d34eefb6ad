"""Messages in words, for the transcript."""

from typing import assert_never

from triptych.core.generation import OperationKey
from triptych.core.jobs.actions import Failed, Freed, KvReady, PrefillDone, Tokens
from triptych.core.jobs.events import Sampled
from triptych.simulator import messages as msg


def name(key: OperationKey) -> str:
    """The request, and its attempt."""
    return f"{key.request_id}.{key.epoch & 255}"


def words(message: msg.ToWorker | msg.ToRouter) -> str:  # noqa: C901  (one line per message)
    """One line."""
    match message:
        case msg.Encode(key, images):
            return f"Encode {name(key)}: {', '.join(picture for _, picture in images)}"
        case msg.Reserve(key, prompt, emitted):
            return f"Reserve {name(key)}: {_length(prompt, emitted)}"
        case msg.Prefill(key, prompt, emitted, _, ticket):
            where = f", KV goes to {ticket.worker_id} ({ticket.ticket_id})" if ticket else ""
            return f"Prefill {name(key)}: {_length(prompt, emitted)}{where}"
        case msg.Decode(key, emitted):
            return f"Decode {name(key)} behind token {len(emitted) - 1}"
        case msg.Free(key):
            return f"Free {name(key)}"
        case msg.EncodeDone(key, handles):
            return f"EncodeDone {name(key)}: {', '.join(handle.picture for handle in handles)}"
        case msg.Reserved(key, ticket):
            return f"Reserved {name(key)}: {ticket.blocks} blocks, {ticket.ticket_id}"
        case PrefillDone(token):
            return f"PrefillDone {_token(token)}"
        case KvReady(key):
            return f"KvReady {name(key)}"
        case Tokens(tokens):
            return f"StepTokens {'; '.join(map(_token, tokens))}"
        case Freed(key):
            return f"Freed {name(key)}"
        case Failed(key, error):
            return f"Failed {name(key)}: {type(error).__name__}, {error.message}"
        case msg.Hello(router_id):
            return f"Hello, I am {router_id}"
        case msg.Welcome(introduction):
            return f"Welcome, I am {introduction.incarnation}"
        case msg.Heartbeat() | msg.Drain() | msg.LoadReport():
            return type(message).__name__
        case unknown:
            assert_never(unknown)


def _length(prompt: msg.Prompt, emitted: tuple[int, ...]) -> str:
    return f"{len(prompt.token_ids)} tokens" + (f" and {len(emitted)} of the answer" if emitted else "")


def _token(token: Sampled) -> str:
    end = f" ({token.finish_reason})" if token.finish_reason else ""
    return f"{name(token.key)}[{token.position}]={token.token.token_id}{end}"
