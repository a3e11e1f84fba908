"""What the scenarios need from a client, whatever library it is made of."""

import asyncio
from dataclasses import dataclass, field

# How long anything that is waited for may take. Generous: it only ends scenarios that have failed.
DEADLINE = 20


@dataclass
class Place:
    """Where the server is."""

    port: int
    # The user names and passwords that it accepts are these.
    user: str = 'device'
    password: str = 'secret'


@dataclass
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass
class Login:
    client_id: str
    clean: bool = True
    keep_alive: int = 60
    # Seconds, in MQTT 5. Before, it is the clean session flag.
    expiry: int = 0
    receive_maximum: int | None = None
    # How many topics the server may replace by numbers.
    alias_maximum: int | None = None
    will: Will | None = None
    # False: with a user name that the server refuses.
    is_known: bool = True

    def user(self, place):
        return place.user if self.is_known else 'x' * 300


@dataclass
class Properties:
    """The properties of a message."""

    user: list = field(default_factory=list)
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry: int | None = None
    is_text: bool = False
    alias: int | None = None
    # Only from the server.
    subscriptions: list = field(default_factory=list)


@dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties | None = None


@dataclass
class Answer:
    """What a CONNACK says; None: the library does not tell."""

    reason: int
    is_present: bool | None = None


class Unable(Exception):
    """The client library cannot do this."""


class Client:
    """One connection. Messages are queued; `ended` is set when the server has closed the connection."""

    label = ''
    versions = ('3.1.1', '5')
    # What the library cannot do: scenario or option, and why.
    cannot: dict = {}
    # The shortest that it accepts, in seconds.
    shortest_keep_alive = 2
    # Whether all messages of a client are published on one connection.
    keeps_connection = True

    def __init__(self, place: Place, version: str, login: Login):
        self.place, self.version, self.login = place, version, login
        self.loop = asyncio.get_running_loop()
        self.messages: asyncio.Queue = asyncio.Queue()
        self.ended = asyncio.Event()
        # The reason code of the DISCONNECT, if the library tells it.
        self.end_reason: int | None = None

    @property
    def is_5(self):
        return self.version == '5'

    @classmethod
    async def set_up(cls):
        """Before the first client."""

    @classmethod
    async def tear_down(cls):
        """After the last one."""

    def need(self, what):
        why = self.cannot.get(what)
        if why:
            raise Unable(why)

    async def connect(self) -> Answer:
        raise NotImplementedError

    async def subscribe(
        self, topic_filter, qos=0, no_local=False, keeps_retain=False, retain_handling=0, number=None
    ) -> int:
        """Returns the code of the SUBACK."""
        raise NotImplementedError

    async def unsubscribe(self, topic_filter):
        raise NotImplementedError

    async def publish(self, topic, payload, qos=0, retain=False, properties=None) -> int | None:
        """Waits for the acknowledgement. Returns its reason code, if the library tells it."""
        raise NotImplementedError

    async def disconnect(self):
        raise NotImplementedError

    async def lose(self):
        """Ends the connection without DISCONNECT."""
        raise NotImplementedError

    async def message(self) -> Message:
        async with asyncio.timeout(DEADLINE):
            return await self.messages.get()


def gather(listed):
    """The user properties, as a list of pairs."""
    return [(str(name), str(value)) for name, value in listed]
