"""What is simulated: the cluster, its load, its misfortunes. The texts under the fields are the reference."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from triptych.config.layout import GENERATING, Layout


class Section(BaseModel):
    """A group of settings: frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def _rising(bounds: list[int]) -> list[int]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [least, most]")
    return bounds


Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Seconds = Annotated[float, Field(ge=0, le=86400)]
Between = Annotated[
    list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=2, max_length=2), AfterValidator(_rising)
]
"""Least and most; each value is as likely as any other."""


class PoissonArrivals(Section):
    """Requests that know nothing of each other."""

    kind: Literal["poisson"]
    rate: float = Field(gt=0, le=100_000)
    """Requests per second."""


class BurstArrivals(Section):
    """Many requests at one moment, again and again."""

    kind: Literal["burst"]
    every: float = Field(gt=0, le=86400)
    """Seconds between two bursts."""
    size: int = Field(ge=1, le=100_000)
    """Requests of a burst."""


class TraceArrivals(Section):
    """Arrivals that were recorded somewhere."""

    kind: Literal["trace"]
    seconds: list[Seconds] = Field(min_length=1)
    """When each request arrives; `requests` is the length of this list."""


Arrivals = Annotated[PoissonArrivals | BurstArrivals | TraceArrivals, Field(discriminator="kind")]


class RequestSpec(Section):
    """What clients ask, and how they behave. Shares are of all requests, drawn apart from each other."""

    count: int = Field(default=16, ge=1, le=1_000_000)
    """Requests of a run."""
    arrivals: Arrivals = PoissonArrivals(kind="poisson", rate=4.0)
    """When they come."""
    prompt_tokens: Between = [4, 40]
    """Length of a prompt, pictures aside."""
    answer_tokens: Between = [2, 16]
    """`max_tokens` of a request; some answers end earlier by themselves."""
    shared_prefix: Share = 0.3
    """Begin like other prompts."""
    with_images: Share = 0.25
    """Have pictures."""
    images: Between = [1, 3]
    """Pictures of such a request."""
    different_images: int = Field(default=6, ge=1)
    """Pictures there are in the world: equal ones are encoded once."""
    colocated: Share = 0.2
    """Ask for prefill and decode on one worker."""
    disaggregated: Share = 0.2
    """Ask for two workers."""
    with_deadline: Share = 0.0
    """Have a deadline."""
    deadline: list[Annotated[float, Field(gt=0)]] = Field(default=[0.2, 20.0], min_length=2, max_length=2)
    """Between how many seconds."""
    cancelled: Share = 0.0
    """Are given up by their client on the way."""
    disconnected: Share = 0.0
    """Lose their client's connection on the way."""
    linger: Seconds = 5.0
    """How long a request goes on without its client."""
    patience: Seconds = 30.0
    """How long a client tries again when it is refused or cannot reach the router."""
    returning: Share = 0.8
    """Of the clients that lost their connection: come back and resume."""


class ClusterSpec(Section):
    """The workers and the settings of router and controller."""

    layout: str = Field(default="1E1P2D", pattern=GENERATING)
    """Workers of each stage, such as 2E2P3D."""
    kv_blocks: int = Field(default=64, ge=4, le=1_000_000)
    """Blocks of each KV pool."""
    block_size: int = Field(default=4, ge=1, le=256)
    """Tokens of a block."""
    max_batch_tokens: int = Field(default=32, ge=2, le=65536)
    """Rows of a step."""
    max_running: int = Field(default=8, ge=1, le=4096)
    """Sequences of a step."""
    prefix_caching: bool = True
    """Whether the KV of equal beginnings is computed once."""
    tokens_per_image: int = Field(default=4, ge=1, le=4096)
    """Positions that a picture takes in a prompt."""
    embeddings: int = Field(default=8, ge=1, le=100_000)
    """Pictures whose embeddings an encode worker has room for."""
    waiting_images: int = Field(default=1024, ge=1, le=100_000)
    """Pictures that may wait at an encode worker."""
    max_running_requests: int = Field(default=64, ge=1, le=65536)
    """As router.max_running_requests."""
    max_requests_per_worker: int = Field(default=32, ge=1, le=65536)
    """As router.max_requests_per_worker."""
    colocate_below_tokens: int = Field(default=8, ge=0)
    """As router.colocate_below_tokens."""
    max_retries: int = Field(default=6, ge=0, le=100)
    """As router.max_retries."""
    replay_patience: Seconds = 60.0
    """As router.replay_patience."""
    stall_seconds: Seconds = 30.0
    """As router.stall_seconds."""
    drain_seconds: Seconds = 5.0
    """As router.drain_seconds."""
    lease_seconds: float = Field(default=10.0, ge=4, le=600)
    """As transfer.lease_seconds."""

    @property
    def counts(self) -> Layout:
        """The layout as numbers."""
        return Layout.parse(self.layout)


class CostSpec(Section):
    """Seconds of the modelled work; a step takes `step` and what its rows take."""

    step: Seconds = 0.004
    """Every step."""
    prompt_token: Seconds = 0.0004
    """Each row of a prompt."""
    answer_row: Seconds = 0.001
    """Each answer that gets a token."""
    kv_token: Seconds = 0.000002
    """Each token whose KV a step reads."""
    picture: Seconds = 0.02
    """A pass of the vision tower, for each picture."""
    block_bytes: int = Field(default=65536, ge=1)
    """Bytes of a KV block, for the time of its transfer."""
    embedding_bytes: int = Field(default=65536, ge=1)
    """Bytes of a picture's embeddings."""
    start: Seconds = 2.0
    """A worker's process until it serves."""


class NetworkSpec(Section):
    """Every wire between two machines."""

    latency: Seconds = 0.0005
    """Seconds on the way."""
    jitter: Seconds = 0.0005
    """Up to so many more."""
    bandwidth: float = Field(default=1e9, gt=0)
    """Bytes per second."""


class MessageFaultSpec(Section):
    """Shares of the messages between router and workers that go astray."""

    lost: Share = 0.0
    """Never arrive."""
    doubled: Share = 0.0
    """Arrive twice."""
    reordered: Share = 0.0
    """Are overtaken by later ones."""
    delayed: Share = 0.0
    """Arrive late, and all behind them."""
    delay_seconds: Seconds = 1.0
    """How late."""


class FaultSpec(Section):
    """Misfortunes, drawn from the seed. Rates are per minute, for the whole cluster, while requests are under way."""

    crash: Rate = 0.0
    """A worker's process is killed."""
    hang: Rate = 0.0
    """A worker's computation stands still for good, while its process lives."""
    slow: Rate = 0.0
    """A worker computes `slow_factor` times slower for `slow_seconds`."""
    slow_factor: float = Field(default=20.0, ge=1, le=10_000)
    """See `slow`."""
    slow_seconds: Seconds = 5.0
    """See `slow`."""
    zombie: Rate = 0.0
    """A process, also the router's or the controller's, is stopped for `zombie_seconds` and then goes on."""
    zombie_seconds: Seconds = 20.0
    """See `zombie`."""
    partition: Rate = 0.0
    """Two machines cannot reach each other for 1 to `partition_seconds`, in one direction or both."""
    partition_seconds: float = Field(default=20.0, ge=1, le=3600)
    """See `partition`."""
    router_restart: Rate = 0.0
    """The router's process is killed and started again."""
    controller_restart: Rate = 0.0
    """The controller's process is killed and started again; the workers live on."""
    drain: Rate = 0.0
    """Somebody takes a worker out; it is added again by a later scaling."""
    scale: Rate = 0.0
    """Somebody asks for one worker more or less of a stage."""
    messages: MessageFaultSpec = MessageFaultSpec()
    """Between router and workers."""
    corrupt_transfer: Share = 0.0
    """Of KV chunks and embeddings: a byte is changed on the way."""
    truncated_transfer: Share = 0.0
    """Of KV chunks and embeddings: the connection breaks in the middle."""
    clock_skew: Share = 0.0
    """Each machine's clock is too fast or too slow by up to this share, and starts anywhere."""


class BoundSpec(Section):
    """What a run must keep to, beyond the invariants that hold always."""

    failed: Share = 0.0
    """Requests that may fail because of the cluster."""
    patience: Seconds = 20.0
    """Longest time that a client hears nothing while nothing is wrong, and nothing was a little before."""


class Scenario(Section):
    """One kind of run."""

    summary: str = ""
    """In a line, for people."""
    cluster: ClusterSpec = ClusterSpec()
    """The workers."""
    requests: RequestSpec = RequestSpec()
    """The load."""
    costs: CostSpec = CostSpec()
    """How long things take."""
    network: NetworkSpec = NetworkSpec()
    """How far things are."""
    faults: FaultSpec = FaultSpec()
    """What goes wrong."""
    bounds: BoundSpec = BoundSpec()
    """What must hold all the same."""
